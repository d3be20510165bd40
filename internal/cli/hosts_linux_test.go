package cli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// hosts is a network of its own: a switch and machines on it, each with an address and
// a table of the others' names. A machine is a network namespace.
type hosts struct {
	t      *testing.T
	prefix string // of the namespaces' names
	names  []string
}

// newHosts makes a switch, or skips the test where this machine cannot.
func newHosts(t *testing.T) *hosts {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: machines made of network namespaces take root, see make chaos-hosts")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skipf("NOT RUN: machines made of network namespaces take the program ip (Debian: iproute2): %v", err)
	}
	h := &hosts{t: t, prefix: fmt.Sprintf("rollout-%d-", os.Getpid())}
	if out, err := h.try("netns", "add", h.ns("switch")); err != nil {
		t.Skipf("NOT RUN: this machine makes no network namespaces: %v: %s", err, out)
	}
	t.Cleanup(h.remove)
	if out, err := h.try("-n", h.ns("switch"), "link", "add", "br0", "type", "bridge"); err != nil {
		t.Skipf("NOT RUN: this machine makes no bridges: %v: %s", err, out)
	}
	h.ip("-n", h.ns("switch"), "link", "set", "br0", "up")
	return h
}

func (h *hosts) ns(name string) string { return h.prefix + name }

func (h *hosts) try(args ...string) ([]byte, error) {
	return exec.CommandContext(context.WithoutCancel(h.t.Context()), "ip", args...).CombinedOutput()
}

func (h *hosts) ip(args ...string) {
	h.t.Helper()
	if out, err := h.try(args...); err != nil {
		h.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// add puts machines on the switch. Their addresses count from 10.231.77.1 on.
func (h *hosts) add(names ...string) {
	h.t.Helper()
	h.names = append(h.names, names...)
	table := "127.0.0.1 localhost\n"
	for i, name := range names {
		table += fmt.Sprintf("10.231.77.%d %s.rollout.test\n", i+1, name)
	}
	for i, name := range names {
		h.ip("netns", "add", h.ns(name))
		h.ip("-n", h.ns(name), "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", h.ns("switch"))
		h.ip("-n", h.ns("switch"), "link", "set", name, "master", "br0", "up")
		h.ip("-n", h.ns(name), "addr", "add", fmt.Sprintf("10.231.77.%d/24", i+1), "dev", "eth0")
		h.ip("-n", h.ns(name), "link", "set", "lo", "up")
		h.ip("-n", h.ns(name), "link", "set", "eth0", "up")
		// What lies here is put over /etc by `ip netns exec`.
		etc := filepath.Join("/etc/netns", h.ns(name))
		if err := os.MkdirAll(etc, 0o755); err != nil {
			h.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(etc, "hosts"), []byte(table), 0o644); err != nil {
			h.t.Fatal(err)
		}
	}
}

// cut takes a machine's cable out of the switch, and heal puts it back.
func (h *hosts) cut(name string)  { h.ip("-n", h.ns("switch"), "link", "set", name, "down") }
func (h *hosts) heal(name string) { h.ip("-n", h.ns("switch"), "link", "set", name, "up") }

func (h *hosts) remove() {
	for _, name := range append([]string{"switch"}, h.names...) {
		if out, err := h.try("netns", "delete", h.ns(name)); err != nil {
			h.t.Errorf("%s stays: %v: %s", h.ns(name), err, out)
		}
		if err := os.RemoveAll(filepath.Join("/etc/netns", h.ns(name))); err != nil {
			h.t.Error(err)
		}
	}
	// The directory itself goes only where nobody else uses it, which is no error.
	_ = os.Remove("/etc/netns")
}

// command is a program on a machine.
func (h *hosts) command(host, program string, args ...string) *exec.Cmd {
	h.t.Helper()
	self, err := os.Executable()
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command("ip", append([]string{"netns", "exec", h.ns(host), self}, args...)...)
	cmd.Env = append(os.Environ(), childEnv+"="+program)
	return cmd
}

// start runs a program on a machine until the test ends or it is told to stop.
func (h *hosts) start(host, program string, args ...string) *running {
	h.t.Helper()
	cmd := h.command(host, program, args...)
	r := &running{transcript: newTranscript(h.t), done: make(chan int, 1), changed: make(chan struct{})}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	cmd.Stderr = r
	if err := cmd.Start(); err != nil { // `ip` becomes the program: its process id is the program's
		h.t.Fatal(err)
	}
	// It may have ended by itself, which its status tells.
	r.stop = func() { _ = cmd.Process.Signal(syscall.SIGTERM) }
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		r.read(stdout)
		// How it ended is in its status.
		_ = cmd.Wait()
		r.done <- cmd.ProcessState.ExitCode()
	}()
	h.t.Cleanup(func() {
		select {
		case <-finished:
		default:
			_ = cmd.Process.Kill() // it may end just now
			<-finished
		}
		if h.t.Failed() {
			h.t.Logf("%s on %s printed:\n%s", program, host, r.stderr())
		}
	})
	return r
}

// call runs the operator's tool on a machine to its end.
func (h *hosts) call(host string, args ...string) string {
	h.t.Helper()
	out, err := h.command(host, "rollout", args...).Output()
	if err != nil {
		h.t.Fatalf("rollout %s: %v", strings.Join(args, " "), err)
	}
	return string(out)
}
