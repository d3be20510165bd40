package pluginhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// chaosCount is how often a fault is made: few times in the test run, as many as
// asked for in a long one.
func chaosCount(t testing.TB, few int) int {
	t.Helper()
	text := os.Getenv("ROLLOUT_CHAOS_COUNT")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("ROLLOUT_CHAOS_COUNT is %q, not a positive number", text)
	}
	return n
}

// quickRestart replaces dead instances without pause.
func quickRestart(c *Config) {
	c.Restart = RestartPolicy{Crashes: 1 << 30, Window: time.Minute, Base: time.Nanosecond, Pause: time.Millisecond}
}

// alive reports whether a process is there and not a zombie.
func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	i := bytes.LastIndexByte(b, ')')
	return i < 0 || i+2 >= len(b) || b[i+2] != 'Z'
}

// waitGone waits until none of the processes is alive.
func waitGone(t testing.TB, pids ...int) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for _, pid := range pids {
		for alive(pid) {
			select {
			case <-tick.C:
			case <-deadline.C:
				t.Fatalf("process %d is still alive", pid)
			}
		}
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestR23SidecarKilled kills a sidecar in the middle of calls, again and again:
// every call ends with an answer or a typed error, and nothing piles up.
func TestR23SidecarKilled(t *testing.T) {
	h, rec := testHost(t, quickRestart)
	m := sampleManifest(t, "victim")
	m.Runtime.Concurrency = 8
	mustLoad(t, h, m)
	mustCall(t, h, "victim", "echo", "warm")
	files, routines := openFiles(t), runtime.NumGoroutine()

	var answered, crashed atomic.Int64
	var stop atomic.Bool
	var callers sync.WaitGroup
	for g := range 4 {
		callers.Go(func() {
			for i := 0; !stop.Load(); i++ {
				want := fmt.Sprintf("%d/%d", g, i)
				out, err := h.Call(context.Background(), "victim", "echo", []byte(want))
				switch {
				case err == nil && string(out) == want:
					answered.Add(1)
				case core.IsCode(err, core.CodePluginCrashed):
					crashed.Add(1)
				default:
					t.Errorf("call: %q, %v", out, err)
					return
				}
			}
		})
	}
	rounds := chaosCount(t, 8)
	for kills := 0; kills < rounds; {
		pid, err := h.Call(context.Background(), "victim", "pid", nil)
		if core.IsCode(err, core.CodePluginCrashed) {
			continue // the process of the last round, its end not seen yet
		}
		if err != nil {
			t.Fatal(err)
		}
		kills++
		n, err := strconv.Atoi(string(pid))
		if err != nil {
			t.Fatal(err)
		}
		if err := syscall.Kill(n, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitGone(t, n)
	}
	stop.Store(true)
	callers.Wait()
	waitFor(t, "the plugin answers at last", func() bool {
		out, err := h.Call(context.Background(), "victim", "echo", []byte("at last"))
		if err != nil && !core.IsCode(err, core.CodePluginCrashed) { // the last end was not seen yet
			t.Fatal(err)
		}
		return string(out) == "at last"
	})
	if answered.Load() == 0 || rec.count(core.TopicPluginCrashed) < rounds {
		t.Errorf("%d answers, %d typed errors, %d crashes seen in %d kills", answered.Load(), crashed.Load(), rec.count(core.TopicPluginCrashed), rounds)
	}
	waitFor(t, "no growth", func() bool { return openFiles(t) <= files+2 && runtime.NumGoroutine() <= routines+4 })
	t.Logf("%d kills: %d answers, %d typed errors", rounds, answered.Load(), crashed.Load())
}

// waitFor waits until something is so.
func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("it never came to be: %s", what)
		}
	}
}

// TestR23CrashLoop counts deaths until the host stops replacing at once.
func TestR23CrashLoop(t *testing.T) {
	h, rec := testHost(t, func(c *Config) {
		c.Restart = RestartPolicy{Crashes: 3, Window: time.Hour, Base: time.Millisecond, Pause: time.Hour}
	})
	mustLoad(t, h, sampleManifest(t, "p"))
	for range 3 {
		if _, err := h.Call(context.Background(), "p", "exit", []byte("1")); !core.IsCode(err, core.CodePluginCrashed) {
			t.Fatal(err)
		}
	}
	rec.wait(t, "looping", func(ev core.PluginEvent) bool {
		return ev.Topic == core.TopicPluginCrashed && ev.Attrs["looping"] == true
	})
	_, err := h.Call(context.Background(), "p", "echo", nil)
	if !core.IsCode(err, core.CodePluginCrashed) || core.RetryOf(err).Kind != core.RetryAfter || !strings.Contains(err.Error(), "last words") {
		t.Errorf("call while looping: %v, retry %+v", err, core.RetryOf(err))
	}
}

// TestR24HostKilled kills a worker with sidecars and their descendants: all are
// gone with it, and so are their files.
func TestR24HostKilled(t *testing.T) {
	dir := writeFiles(t, map[string]string{"sample.py": samplePlugin, "children.py": childrenPlugin})
	for range chaosCount(t, 2) {
		data := filepath.Join(t.TempDir(), "d")
		cmd := exec.Command(testLauncher(t)[0])
		cmd.Env = append(os.Environ(), roleVar+"=worker", "ROLLOUT_TEST_DIR="+dir, "ROLLOUT_TEST_DATA="+data)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		var pids []int
		for range 4 { // two sidecars, a child and a grandchild in a session of its own
			var pid int
			if _, err := fmt.Fscan(out, &pid); err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
		for _, pid := range pids {
			if !alive(pid) {
				t.Fatalf("process %d was dead before", pid)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		waitGone(t, pids...)
		t.Logf("all gone %v after the kill", time.Since(began))
		_, _ = io.Copy(io.Discard, out) // the pipe ends with its last holder
		if err := cmd.Wait(); err == nil {
			t.Error("the worker ended well")
		}
		waitFor(t, "no run directory is left", func() bool {
			left, err := os.ReadDir(filepath.Join(data, "sidecars"))
			return err == nil && len(left) == 0
		})
	}
}

// childrenPlugin starts a child and a grandchild that leaves the process group.
const childrenPlugin = `
import subprocess, sys

class Children:
    def call(self, method, payload):
        grand = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        child = subprocess.Popen(["sleep", "1000"])
        return b"%d %d" % (child.pid, grand.pid)

def create_plugin():
    return Children()
`

// workerRole is the worker of TestR24HostKilled: it prints the processes that it
// has started and waits to be killed.
func workerRole() error {
	dir := os.Getenv("ROLLOUT_TEST_DIR")
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	h, err := New(Config{DataDir: os.Getenv("ROLLOUT_TEST_DATA"), Launcher: []string{exe, "launch"}})
	if err != nil {
		return err
	}
	for _, module := range []string{"sample", "children"} {
		info, err := h.Load(context.Background(), pythonManifest(dir, module, module))
		if err != nil {
			return err
		}
		fmt.Println(info.PID)
	}
	out, err := h.Call(context.Background(), "children", "go", nil)
	if err != nil {
		return err
	}
	fmt.Println(string(out))
	select {}
}

// TestR24Sweep removes what is left when worker and launcher were both killed, and
// nothing else.
func TestR24Sweep(t *testing.T) {
	root := filepath.Join(t.TempDir(), strings.Repeat("long", 20))
	held, err := newRunDir(root)
	if err != nil {
		t.Fatal(err)
	}
	left, err := newRunDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if left.socket == left.path {
		t.Fatal("a long path got no short directory for sockets")
	}
	if err := left.lock.Close(); err != nil { // as if its owners were dead
		t.Fatal(err)
	}
	if err := sweep(root); err != nil {
		t.Fatal(err)
	}
	for _, path := range left.all() {
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left: %v", path, err)
		}
	}
	for _, path := range held.all() {
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("what is held is gone: %v", err)
		}
	}
	if err := held.remove(); err != nil {
		t.Error(err)
	}
}

// TestR25HangingSidecar stops or busies a sidecar: deadlines are kept, its group is
// killed, and others go on.
func TestR25HangingSidecar(t *testing.T) {
	h, rec := testHost(t, quickRestart)
	for _, name := range []string{"hung", "well"} {
		mustLoad(t, h, sampleManifest(t, name))
	}
	for range chaosCount(t, 1) {
		for what, hang := range map[string]func(pid int) error{
			"stopped": func(pid int) error { return syscall.Kill(pid, syscall.SIGSTOP) },
			"in C":    func(int) error { return nil },
		} {
			n, err := strconv.Atoi(mustCall(t, h, "hung", "pid", ""))
			if err == nil {
				err = hang(n)
			}
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			_, err = h.Call(ctx, "hung", "sleep", []byte("1000"))
			cancel()
			if !core.IsCode(err, core.CodeDeadlineExceeded) {
				t.Errorf("%s: %v", what, err)
			}
			mustCall(t, h, "well", "echo", "still here")
			waitGone(t, n)
			waitFor(t, "the plugin is back", func() bool {
				out, err := h.Call(context.Background(), "hung", "echo", []byte("back again"))
				if err != nil && !core.IsCode(err, core.CodePluginCrashed) { // its end was not seen yet
					t.Fatal(err)
				}
				return string(out) == "back again"
			})
		}
	}
	if rec.count(core.TopicPluginCrashed) < 2 {
		t.Errorf("events: %v", rec.all())
	}
}

// TestHotReloadUnderLoad calls while reloading: none is lost, and each is answered
// once with its own answer.
func TestHotReloadUnderLoad(t *testing.T) {
	h, _ := testHost(t, nil)
	m := sampleManifest(t, "p")
	m.Runtime.Concurrency = 8
	mustLoad(t, h, m)
	reloads := chaosCount(t, 5)
	least := int64(reloads) * 200
	var done atomic.Bool
	var next, answered atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				i := next.Add(1)
				if done.Load() && i > least {
					return
				}
				out, err := h.Call(context.Background(), "p", "echo", fmt.Appendf(nil, "%d", i))
				if err != nil || string(out) != strconv.FormatInt(i, 10) {
					t.Errorf("call %d: %q, %v", i, out, err)
					return
				}
				answered.Add(1)
			}
		})
	}
	pids := make(map[int]bool)
	for n := range reloads {
		info, err := h.Reload(context.Background(), m)
		if err != nil || info.Generation != n+2 || pids[info.PID] {
			t.Fatalf("reload %d: %+v, %v", n, info, err)
		}
		pids[info.PID] = true
	}
	done.Store(true)
	wg.Wait()
	if answered.Load() < least {
		t.Errorf("%d calls were answered, want %d", answered.Load(), least)
	}
	t.Logf("%d calls answered during %d reloads", answered.Load(), reloads)
}
