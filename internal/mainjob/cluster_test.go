package mainjob

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds waits on whose length nothing is promised.
const patience = 3 * time.Minute

// programs is where TestMain has built them.
var programs string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// buildAndRun builds the programs as users have them, without the race detector.
func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "mainjob")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	programs = dir
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/", "../../cmd/...")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go build: %w\n%s", err, out)
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if err := os.CopyFS(filepath.Join(dir, "plugin"), os.DirFS("../../examples/gsm8k-reward")); err != nil {
		return 0, err
	}
	lib := exec.Command(cc, "-shared", "-fPIC", "-O2", "-I", "../../include", "-o", filepath.Join(dir, "plugin", "libgsm8k_reward.so"), "../../examples/gsm8k-reward/gsm8k_reward.c")
	if out, err := lib.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", cc, err, out)
	}
	return m.Run(), nil
}

// manifestOf returns the manifest of a plugin by its name.
func manifestOf(t testing.TB, plugin string) string {
	t.Helper()
	switch plugin {
	case "gsm8k-reward":
		return filepath.Join(programs, "plugin", "rollout-plugin.toml")
	case "gsm8k-reward-python":
		return filepath.Join(programs, "plugin", "embedded.toml")
	case "gsm8k-reward-c":
		return filepath.Join(programs, "plugin", "c.toml")
	}
	path, err := filepath.Abs(filepath.Join("testdata", plugin, "rollout-plugin.toml"))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// cluster is a coordinator and workers as a service manager would keep them: what
// dies is started again.
type cluster struct {
	t     testing.TB
	dir   string
	conf  string
	addr  string
	coord *service
	work  []*service
}

// service is one program that is kept running.
type service struct {
	name string
	args []string
	log  *os.File
	done chan struct{} // closed when it is kept no more

	mu      sync.Mutex // guards the fields below
	cmd     *exec.Cmd
	ending  bool
	started int
}

// newCluster starts a coordinator and waits until it serves, then workers with the
// named plugins, and waits until all have loaded them.
func newCluster(t testing.TB, protocol string, workers int, plugins ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, dir: t.TempDir()}
	c.conf = filepath.Join(c.dir, "rollout.toml")
	c.configure(protocol, "127.0.0.1:0")
	c.coord = c.keep("coordinator", "coordinator", "--config", c.conf, "--data-dir", c.path("coordinator"))
	c.await("the coordinator to serve", func() bool {
		c.addr = c.startedAddr()
		return c.addr != ""
	})
	c.configure(protocol, c.addr) // a restart comes back on the same port
	for i := range workers {
		name := fmt.Sprintf("w%d", i+1)
		args := []string{"--config", c.conf, "--data-dir", c.path(name), "--addr", c.addr}
		for _, p := range plugins {
			args = append(args, "--plugin", manifestOf(t, p))
		}
		c.work = append(c.work, c.keep(name, "worker", args...))
	}
	c.await("the workers to be ready", func() bool { return c.ready() == workers })
	t.Cleanup(c.end)
	return c
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *cluster) configure(protocol, listen string) {
	c.t.Helper()
	text := fmt.Sprintf("[transport]\nprotocol = %q\nlisten_addr = %q\ntls_dir = %q\nheartbeat_interval = \"400ms\"\n[worker]\nslots = 2\n", protocol, listen, c.path("tls"))
	if err := os.WriteFile(c.conf, []byte(text), 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// keep starts a program and starts it again whenever it ends.
func (c *cluster) keep(name, program string, args ...string) *service {
	c.t.Helper()
	log, err := os.OpenFile(c.path(name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	s := &service{name: name, args: append([]string{filepath.Join(programs, program)}, args...), log: log, done: make(chan struct{})}
	if err := s.start(); err != nil {
		c.t.Fatal(err)
	}
	go s.run()
	return s
}

func (s *service) start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	cmd := exec.Command(s.args[0], s.args[1:]...)
	cmd.Stdout, cmd.Stderr = s.log, s.log
	cmd.Env = environ()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	s.cmd = cmd
	s.started++
	return nil
}

func environ() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ROLLOUT_") {
			env = append(env, kv)
		}
	}
	return env
}

func (s *service) run() {
	defer close(s.done)
	for {
		s.mu.Lock()
		cmd := s.cmd
		s.mu.Unlock()
		err := cmd.Wait()
		s.mu.Lock()
		ending := s.ending
		s.mu.Unlock()
		if ending {
			return
		}
		fmt.Fprintf(s.log, "-- ended: %v, started again\n", err)
		if err := s.start(); err != nil {
			fmt.Fprintf(s.log, "-- %v\n", err)
			return
		}
	}
}

// signal sends a signal to the program that runs now and returns its pid.
func (s *service) signal(sig syscall.Signal) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	// It may have ended by itself at this moment, and is being started again.
	_ = s.cmd.Process.Signal(sig)
	return s.cmd.Process.Pid
}

// end drains everything and waits until it is gone.
func (c *cluster) end() {
	for _, s := range append(c.work, c.coord) {
		s.mu.Lock()
		s.ending = true
		s.mu.Unlock()
		s.signal(syscall.SIGCONT)
		s.signal(syscall.SIGTERM)
		select {
		case <-s.done:
		case <-time.After(patience):
			c.t.Errorf("%s did not end", s.name)
			s.signal(syscall.SIGKILL)
			<-s.done
		}
		s.log.Close()
	}
	if c.t.Failed() {
		for _, s := range append(c.work, c.coord) {
			c.t.Logf("%s ends with:\n%s", s.name, tail(c.path(s.name+".log")))
		}
	}
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// await polls until something is so.
func (c *cluster) await(what string, ok func() bool) {
	c.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(end) {
			c.t.Fatalf("waited %v in vain for %s", patience, what)
		}
		<-tick.C
	}
}

// startedAddr finds the address in the coordinator's events.
func (c *cluster) startedAddr() string {
	b, err := os.ReadFile(c.path("coordinator.log"))
	if err != nil {
		return ""
	}
	for line := range bytes.Lines(b) {
		var ev struct {
			Topic string `json:"topic"`
			Attrs struct {
				Addr string `json:"addr"`
			} `json:"attrs"`
		}
		if json.Unmarshal(line, &ev) == nil && ev.Topic == "coordinator_started" {
			return ev.Attrs.Addr
		}
	}
	return ""
}

// tool runs the operator's tool.
func (c *cluster) tool(stdin io.Reader, args ...string) (stdout []byte, err error) {
	args = append(args, "--addr", c.addr, "--tls-dir", c.path("tls"), "--timeout", "60s")
	cmd := exec.Command(filepath.Join(programs, "rollout"), args...)
	cmd.Env = environ()
	cmd.Stdin = stdin
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.Bytes(), fmt.Errorf("rollout %s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return out.Bytes(), nil
}

// ready counts the workers that take work.
func (c *cluster) ready() int {
	out, err := c.tool(nil, "workers", "--json")
	if err != nil {
		return 0
	}
	var rows []struct{ State, Liveness string }
	if json.Unmarshal(out, &rows) != nil {
		return 0
	}
	n := 0
	for _, r := range rows {
		if r.Liveness == "alive" && (r.State == "ready" || r.State == "running") {
			n++
		}
	}
	return n
}
