package pluginhost

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginsdk"
	"go.uber.org/goleak"
)

// TestMain lets the test binary stand for the worker's: as `launch` it is the
// sidecar launcher.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "launch" {
		leave(LaunchMain(os.Args[2:]))
	}
	if role := os.Getenv(roleVar); role != "" {
		leave(playRole(role))
	}
	goleak.VerifyTestMain(m)
}

// testLauncher is the argument list of a real launcher.
func testLauncher(t testing.TB) []string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{exe, "launch"}
}

// recorder keeps the events of a host.
type recorder struct {
	t      testing.TB
	mu     sync.Mutex // guards events
	events []core.PluginEvent
	more   chan struct{} // has room for one
}

func newRecorder(t testing.TB) *recorder { return &recorder{t: t, more: make(chan struct{}, 1)} }

// record also fails the test for a data race that a child built from this very
// binary has reported: its launchers, isolated libraries and Go plugins.
func (r *recorder) record(ev core.PluginEvent) {
	if strings.Contains(ev.Line, "WARNING: DATA RACE") {
		r.t.Errorf("a child of plugin %s reports a data race; its events tell more", ev.Info.ID)
	}
	r.mu.Lock()
	r.events = append(r.events, ev)
	r.mu.Unlock()
	select {
	case r.more <- struct{}{}:
	default:
	}
}

func (r *recorder) all() []core.PluginEvent {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]core.PluginEvent(nil), r.events...)
}

func (r *recorder) count(topic string) int {
	n := 0
	for _, ev := range r.all() {
		if ev.Topic == topic {
			n++
		}
	}
	return n
}

// wait returns once an event satisfies ok.
func (r *recorder) wait(t testing.TB, what string, ok func(core.PluginEvent) bool) core.PluginEvent {
	t.Helper()
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		for _, ev := range r.all() {
			if ok(ev) {
				return ev
			}
		}
		select {
		case <-r.more:
		case <-timeout.C:
			t.Fatalf("no event: %s; got %v", what, r.all())
		}
	}
}

// patience bounds waits for what must come, on however loaded a machine.
const patience = 60 * time.Second

// testPythons spares every host of a test its own question to the same interpreter,
// which takes longest where python3 is a shim.
var testPythons pythons

// testHost returns a host that is shut down with the test and must leave nothing.
func testHost(t testing.TB, change func(*Config)) (*Host, *recorder) {
	t.Helper()
	rec := newRecorder(t)
	cfg := Config{DataDir: filepath.Join(t.TempDir(), "d"), Launcher: testLauncher(t), Events: rec.record}
	if change != nil {
		change(&cfg)
	}
	h, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.env.pythons = &testPythons
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := h.Shutdown(ctx); err != nil {
			t.Error(err)
		}
		left, err := os.ReadDir(h.cfg.RunDir)
		if err != nil || len(left) != 0 {
			t.Errorf("run directory after shutdown: %v, %v", left, err)
		}
	})
	return h, rec
}

// writeFiles writes files, given by name and content, into a new directory.
func writeFiles(t testing.TB, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		mode := os.FileMode(0o600)
		if filepath.Ext(name) == ".sh" {
			mode = 0o700
		}
		full := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// samplePlugin is the Python plugin that most tests load, in either Python mode.
const samplePlugin = `
import os, sys, threading, time, rollout_plugin

class Sample:
    def init(self, config):
        self.config = config
        if "fail" in config:
            raise ValueError(config["fail"])

    def preflight(self):
        assert self.call("echo", b"ping") == b"ping"

    def call(self, method, payload):
        if method == "echo":
            return payload
        if method == "config":
            return repr(self.config).encode()
        if method == "raise":
            raise ValueError(payload.decode())
        if method == "retry":
            raise rollout_plugin.PluginError("busy", retry=2.5)
        if method == "sleep":
            time.sleep(float(payload))
            return b"slept"
        if method == "spin":
            end = time.monotonic() + float(payload)
            while time.monotonic() < end:
                pass
            return b"spun"
        if method == "exit":
            print("last words", file=sys.stderr, flush=True)
            os._exit(int(payload))
        if method == "quit":
            sys.exit("no")
        if method == "print":
            print(payload.decode(), flush=True)
            os.write(1, b"raw stdout\n")
            return b""
        if method == "pid":
            return str(os.getpid()).encode()
        if method == "thread":
            return str(threading.get_ident()).encode()
        if method == "env":
            return "\n".join(sorted(k + "=" + v for k, v in os.environ.items())).encode()
        if method == "huge":
            return b"x" * int(payload)
        if method == "text":
            return "not bytes"
        if method == "eval":
            return str(eval(payload.decode())).encode()
        raise rollout_plugin.UnknownMethod(method)

    def shutdown(self):
        if "farewell" in self.config:
            print(self.config["farewell"], file=sys.stderr, flush=True)

def create_plugin():
    return Sample()
`

// sampleManifest returns the manifest of samplePlugin as a framed sidecar.
func sampleManifest(t testing.TB, name string) core.Manifest {
	t.Helper()
	return pythonManifest(writeFiles(t, map[string]string{"sample.py": samplePlugin}), name, "sample")
}

func pythonManifest(dir, name, module string) core.Manifest {
	return core.Manifest{
		Name: name, Version: "1.0.0", Kind: core.KindCustom, Mode: core.ModeSidecar, Dir: dir, Path: filepath.Join(dir, "rollout-plugin.toml"),
		Runtime: core.Runtime{Concurrency: 1, StartTimeout: patience, CallTimeout: 30 * time.Second},
		Sidecar: core.SidecarEntry{Command: []string{"python3", "-m", "rollout_plugin", "run", module}, Protocol: core.ProtocolFramed},
	}
}

func mustLoad(t testing.TB, h *Host, m core.Manifest) core.PluginInfo {
	t.Helper()
	info, err := h.Load(context.Background(), m)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func mustCall(t testing.TB, h *Host, plugin, method, payload string) string {
	t.Helper()
	out, err := h.Call(context.Background(), plugin, method, []byte(payload))
	if err != nil {
		t.Fatalf("%s of %q: %v", method, payload, err)
	}
	return string(out)
}

// roleVar makes the test binary play another program.
const roleVar = "ROLLOUT_TEST_ROLE"

func playRole(role string) int {
	switch role {
	case "grpc":
		return pluginsdk.Main(&goSample{})
	case "worker", "user":
		run := workerRole
		if role == "user" {
			run = userRole
		}
		if err := run(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	fmt.Fprintln(os.Stderr, "unknown role", role)
	return 2
}
