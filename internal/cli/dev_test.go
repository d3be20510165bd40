package cli

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// devProcess is a running `rollout dev` and what it printed.
type devProcess struct {
	t    *testing.T
	cmd  *exec.Cmd
	dir  string
	over chan struct{} // closed when its output is read

	mu      sync.Mutex // guards the fields below
	lines   []string
	changed chan struct{}
}

// startDev starts the three programs as a user has them: side by side on PATH.
func startDev(t *testing.T, args ...string) *devProcess {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	d := &devProcess{t: t, dir: t.TempDir(), over: make(chan struct{}), changed: make(chan struct{})}
	bin := filepath.Join(d.dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for name := range programs() {
		script := fmt.Sprintf("#!/bin/sh\n%s=%s exec '%s' \"$@\"\n", childEnv, name, exe)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	d.cmd = exec.Command(filepath.Join(bin, "rollout"), append([]string{"dev", "--data-dir", d.data()}, args...)...)
	d.cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "ROLLOUT_TRANSPORT_HEARTBEAT_INTERVAL=2s")
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Stderr = d.cmd.Stdout
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.over)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			d.mu.Lock()
			d.lines = append(d.lines, lines.Text())
			close(d.changed)
			d.changed = make(chan struct{})
			d.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			_ = d.cmd.Process.Kill() // it may have ended by now
			<-d.over
			_ = d.cmd.Wait() // it tells the signal
		}
		if t.Failed() {
			t.Logf("dev printed:\n%s", d.text())
		}
	})
	return d
}

func (d *devProcess) data() string { return filepath.Join(d.dir, "data") }

func (d *devProcess) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, "\n")
}

// await waits until n lines match and returns what the first group of each says.
func (d *devProcess) await(pattern string, n int) []string {
	d.t.Helper()
	re := regexp.MustCompile(pattern)
	deadline := time.After(patience)
	for {
		d.mu.Lock()
		changed, found := d.changed, []string(nil)
		for _, line := range d.lines {
			if m := re.FindStringSubmatch(line); m != nil {
				found = append(found, m[1])
			}
		}
		d.mu.Unlock()
		if len(found) >= n {
			return found
		}
		select {
		case <-changed:
		case <-d.over:
			select {
			case <-changed: // its last line
				continue
			default:
			}
			d.t.Fatalf("dev ended without %d lines of %q", n, pattern)
		case <-deadline:
			d.t.Fatalf("no %d lines of %q came", n, pattern)
		}
	}
}

// ready waits until n workers are ready and returns where the coordinator is.
func (d *devProcess) ready(n int) (addr string) {
	d.t.Helper()
	d.await(`worker_state worker=(\S+) .*to=ready`, n)
	return d.await(`coordinator_started addr=(\S+)`, 1)[0]
}

// pids returns the processes that dev says it has started.
func (d *devProcess) pids(n int) (out []int) {
	d.t.Helper()
	for _, text := range d.await(`started, pid (\d+)`, n) {
		pid, err := strconv.Atoi(text)
		if err != nil {
			d.t.Fatal(err)
		}
		out = append(out, pid)
	}
	return out
}

// wait returns the exit status, and checks that nothing is left running.
func (d *devProcess) wait() int {
	d.t.Helper()
	select {
	case <-d.over:
	case <-time.After(patience):
		d.t.Fatal("dev does not end")
	}
	var exit *exec.ExitError
	if err := d.cmd.Wait(); err != nil && !errors.As(err, &exit) {
		d.t.Fatal(err)
	}
	for _, pid := range d.pids(0) {
		awaitGone(d.t, pid)
	}
	return d.cmd.ProcessState.ExitCode()
}

// awaitGone waits until a process is no more. One that nobody has reaped yet counts.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Errorf("process %d is still there: %s", pid, stat)
			return
		}
	}
}

func TestDevRunsASystemAndDrainsIt(t *testing.T) {
	d := startDev(t, "--listen", "127.0.0.1:0", "--plugin", "../../examples/gsm8k-reward/rollout-plugin.toml")
	addr := d.ready(2)
	reach := []string{"--addr", addr, "--tls-dir", filepath.Join(d.data(), "tls")}
	out := filepath.Join(d.dir, "out.jsonl")
	_, stderr, code := call(Operator, append([]string{"submit", "--plugin", "gsm8k-reward", "--method", "score",
		"--input", "../../examples/gsm8k-reward/sample.jsonl", "--wait", "--output", out}, reach...)...)
	if rs := results(t, readFile(t, out)); code != ExitOK || len(rs) != 64 {
		t.Errorf("submit: status %d, %d results, %s", code, len(rs), stderr)
	}
	stdout, _, _ := call(Operator, append([]string{"workers", "--json"}, reach...)...)
	var rows []core.WorkerRow
	if err := json.Unmarshal([]byte(stdout), &rows); err != nil || len(rows) != 2 || len(rows[0].Plugins) != 1 {
		t.Errorf("workers: %v, %s", err, stdout)
	}
	if err := d.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(); code != ExitOK {
		t.Errorf("it ends with %d", code)
	}
	for pattern, n := range map[string]int{
		`dev +draining; (Ctrl-C) again`: 1, `(worker_deregistered) `: 2, `w[12] +ended: (exit status 0)`: 2,
		`coordinator +(coordinator_stopped) `: 1, `coordinator +ended: (exit status 0)`: 1, `w[12] +(plugin_loaded) gsm8k`: 2, `(job_finished) `: 1,
	} {
		if got := d.await(pattern, 0); len(got) != n {
			t.Errorf("%d lines match %q, want %d", len(got), pattern, n)
		}
	}
	for _, line := range strings.Split(d.text(), "\n") {
		if !regexp.MustCompile(`^\d\d:\d\d:\d\d\.\d{3} (dev|coordinator|w1|w2) +\S`).MatchString(line) || strings.Contains(line, `"ts"`) {
			t.Errorf("an unreadable line: %s", line)
		}
	}
}

func TestDevReportsAWorkerThatIsKilledAndGoesOn(t *testing.T) {
	d := startDev(t, "--listen", "127.0.0.1:0", "--workers", "3")
	d.ready(3)
	pids := d.pids(4)
	if err := syscall.Kill(pids[2], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	d.await(`w\d +ended: (signal: killed)`, 1)
	d.await(`(worker_failed) `, 1)
	if err := d.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(); code != ExitOK || len(d.await(`(worker_deregistered) `, 0)) != 2 {
		t.Errorf("it ends with %d", code)
	}
}

func TestNothingOutlivesDev(t *testing.T) {
	d := startDev(t, "--listen", "127.0.0.1:0")
	d.ready(2)
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(); code != -1 {
		t.Errorf("it ends with %d", code)
	}
}

func TestDevSaysWhyItCannotStart(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close() // nothing was accepted
	d := startDev(t, "--listen", l.Addr().String())
	if code := d.wait(); code != ExitFailure {
		t.Errorf("with a port in use it ends with %d", code)
	}
	if why := d.await(`^rollout: coordinator ended \(exit status 1\): (.*)`, 0); len(why) != 1 || !strings.Contains(why[0], l.Addr().String()+" is in use by another process") {
		t.Errorf("why is %q", why)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--workers", "-1"}, "--workers is -1"},
		{[]string{"--plugin", "nobody"}, `no plugin named "nobody"`},
		{[]string{"--plugin", "./dev.go"}, "dev.go:1: "},
		{[]string{"--config", "nothing.toml"}, "nothing.toml"},
	} {
		d := startDev(t, c.args...)
		if code := d.wait(); code != ExitUsage || !strings.Contains(d.text(), c.want) || len(d.pids(0)) != 0 {
			t.Errorf("%v: status %d, lacks %q: %s", c.args, code, c.want, d.text())
		}
	}
}

func TestDevPrintsEventsAloneForPrograms(t *testing.T) {
	d := startDev(t, "--listen", "127.0.0.1:0", "--json")
	d.await(`"(worker_state)".*"to":"ready"`, 2)
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(); code != ExitOK {
		t.Errorf("it ends with %d", code)
	}
}
