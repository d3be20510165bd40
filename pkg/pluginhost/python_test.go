//go:build cgo && linux

package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/pyembed"
)

// embedded returns the manifest of a module that runs in the worker.
func embedded(t testing.TB, dir, name, module string) core.Manifest {
	t.Helper()
	if _, err := (&pyembed.Finder{}).Find(t.Context(), pyembed.Request{SearchPath: os.Getenv("PATH")}); err != nil {
		t.Skipf("SKIPPED: this machine has no Python that can be embedded: %v", err)
	}
	m := pythonManifest(dir, name, module)
	m.Mode, m.Sidecar = core.ModePython, core.SidecarEntry{}
	m.Python = core.PythonEntry{Module: module, Factory: "create_plugin"}
	m.Digest = name
	return m
}

func embeddedSample(t testing.TB, name string) core.Manifest {
	t.Helper()
	return embedded(t, writeFiles(t, map[string]string{"sample.py": samplePlugin}), name, "sample")
}

func TestPython(t *testing.T) {
	h, rec := testHost(t, nil)
	m := embeddedSample(t, "sample")
	m.Config = map[string]any{"a": 1, "farewell": "goodbye"}
	info := mustLoad(t, h, m)
	if info.PID != 0 || len(info.Containment.Enforced) != 0 || len(info.Containment.Missing) == 0 {
		t.Errorf("info = %+v", info)
	}
	if got := mustCall(t, h, "sample", "config", ""); !strings.Contains(got, "'a': 1") {
		t.Errorf("config: %q", got)
	}
	if got := mustCall(t, h, "sample", "pid", ""); got != fmt.Sprint(os.Getpid()) {
		t.Errorf("pid: %q", got)
	}
	for method, want := range map[string]struct {
		code core.Code
		text string
	}{
		"raise":   {core.CodePluginError, "ValueError: broken thing"},
		"quit":    {core.CodePluginError, "SystemExit"},
		"retry":   {core.CodePluginError, "busy"},
		"text":    {core.CodePluginError, "not bytes"},
		"nothing": {core.CodePluginContract, "nothing"},
	} {
		_, err := h.Call(t.Context(), "sample", method, []byte("broken thing"))
		if !core.IsCode(err, want.code) || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: %v", method, err)
		}
	}
	if _, err := h.Call(t.Context(), "sample", "huge", []byte("16777217")); !core.IsCode(err, core.CodeTooLarge) {
		t.Errorf("huge: %v", err)
	}
	if err := h.Unload(t.Context(), "sample"); err != nil {
		t.Error(err)
	}
	rec.wait(t, "farewell", func(ev core.PluginEvent) bool { return ev.Line == "goodbye" && ev.Info.ID == "sample-1.0.0" })
}

func TestPythonPrintsToItsOwnLog(t *testing.T) {
	h, rec := testHost(t, nil)
	src := "class P:\n    def call(self, method, payload):\n        print('line', payload.decode())\n        return b''\ndef create_plugin():\n    return P()\n"
	for _, name := range []string{"one", "two"} {
		mustLoad(t, h, embedded(t, writeFiles(t, map[string]string{"prints.py": src}), name, "prints"))
	}
	for _, name := range []string{"one", "two"} {
		mustCall(t, h, name, "x", "of "+name)
	}
	for _, name := range []string{"one", "two"} {
		rec.wait(t, "line of "+name, func(ev core.PluginEvent) bool { return ev.Line == "line of "+name && ev.Info.Name == name })
	}
}

func TestPythonDeadline(t *testing.T) {
	h, rec := testHost(t, nil)
	mustLoad(t, h, embeddedSample(t, "sample"))
	mustLoad(t, h, embeddedSample(t, "other"))
	before := mustCall(t, h, "sample", "thread", "")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.Call(ctx, "sample", "spin", []byte("300")); !core.IsCode(err, core.CodeDeadlineExceeded) {
		t.Errorf("spin: %v", err)
	}
	if got := mustCall(t, h, "other", "echo", "beside"); got != "beside" {
		t.Errorf("other: %q", got)
	}
	if got := mustCall(t, h, "sample", "thread", ""); got != before {
		t.Errorf("the interrupted instance was replaced: thread %s, then %s", before, got)
	}
	if n := rec.count(core.TopicPluginCrashed); n > 0 {
		t.Errorf("%d crashes", n)
	}
}

// TestPythonStuckInstanceIsReplaced lets a call sleep in C, where no exception
// reaches it: the instance is given up and another takes its place.
func TestPythonStuckInstanceIsReplaced(t *testing.T) {
	h, rec := testHost(t, nil)
	mustLoad(t, h, embeddedSample(t, "sample"))
	before := mustCall(t, h, "sample", "thread", "")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.Call(ctx, "sample", "sleep", []byte("2")); !core.IsCode(err, core.CodeDeadlineExceeded) {
		t.Errorf("sleep: %v", err)
	}
	waiting, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// A call that was lined up behind the stuck one fails typed, or the new instance answers it.
	if _, err := h.Call(waiting, "sample", "echo", nil); err != nil && !core.IsCode(err, core.CodePluginPoisoned) {
		t.Errorf("call behind the stuck one: %v", err)
	}
	rec.wait(t, "replacement", func(ev core.PluginEvent) bool { return ev.Topic == core.TopicPluginRestarted })
	if got := mustCall(t, h, "sample", "thread", ""); got == before {
		t.Error("the same thread answers")
	}
	// The abandoned thread ends by itself; the sleep is over before this returns.
	mustCall(t, h, "sample", "sleep", "2.2")
}

func TestPythonConcurrency(t *testing.T) {
	h, _ := testHost(t, nil)
	m := embeddedSample(t, "sample")
	m.Runtime.Concurrency = 3
	mustLoad(t, h, m)
	var mu sync.Mutex
	threads := make(map[string]bool)
	// On a loaded machine three calls may come one after another and find the same
	// instance free; calls that meet are tried until they show a second thread.
	for end := time.Now().Add(patience); len(threads) < 2 && time.Now().Before(end); {
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				mustCall(t, h, "sample", "sleep", "0.1")
				id := mustCall(t, h, "sample", "thread", "")
				mu.Lock()
				defer mu.Unlock()
				threads[id] = true
			})
		}
		calls.Wait()
	}
	if len(threads) < 2 {
		t.Errorf("%d threads answered, want up to 3", len(threads))
	}
}

func TestPythonFailedLoads(t *testing.T) {
	h, _ := testHost(t, nil)
	tests := map[string]struct {
		change func(*core.Manifest)
		code   core.Code
		text   string
	}{
		"no module":            {func(m *core.Manifest) { m.Python.Module = "absent_module" }, core.CodePluginError, "absent_module"},
		"no factory":           {func(m *core.Manifest) { m.Python.Factory = "absent" }, core.CodePluginError, "no function absent"},
		"init fails":           {func(m *core.Manifest) { m.Config = map[string]any{"fail": "as configured"} }, core.CodePluginError, "as configured"},
		"no interpreter":       {func(m *core.Manifest) { m.Runtime.Interpreter = "/absent/python3" }, core.CodeUnsupported, "/absent/python3"},
		"future version":       {func(m *core.Manifest) { m.Runtime.PythonMin = "3.99" }, core.CodeUnsupported, "3.99"},
		"containment required": {func(m *core.Manifest) { m.Sandbox.Require = true }, core.CodeUnsupported, "sidecar"},
	}
	for name, tt := range tests {
		m := embeddedSample(t, "sample")
		tt.change(&m)
		if _, err := h.Load(t.Context(), m); !core.IsCode(err, tt.code) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: code %v, %v", name, core.CodeOf(err), err)
		}
	}
	if got := h.Plugins(); len(got) != 0 {
		t.Errorf("plugins after failed loads: %v", got)
	}
	mustLoad(t, h, embeddedSample(t, "sample"))
}

// TestPythonReloadUnderLoad reloads while calls go on: none is lost, and each is
// answered by code that was current between its start and its end.
func TestPythonReloadUnderLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(version int64) {
		src := fmt.Sprintf("VERSION = b'%d'\nclass P:\n    def call(self, method, payload):\n        return VERSION\ndef create_plugin():\n    return P()\n", version)
		if err := os.WriteFile(filepath.Join(dir, "versioned.py"), []byte(src), 0o600); err != nil {
			t.Error(err)
		}
	}
	write(0)
	h, _ := testHost(t, nil)
	m := embedded(t, dir, "versioned", "versioned")
	m.Runtime.Concurrency = 2
	mustLoad(t, h, m)

	var newest atomic.Int64 // written last
	var oldest atomic.Int64 // of which the reload has returned
	stop := make(chan struct{})
	var callers sync.WaitGroup
	var calls atomic.Int64
	for range 4 {
		callers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				least := oldest.Load()
				out, err := h.Call(context.Background(), "versioned", "x", nil)
				if err != nil {
					t.Errorf("lost call: %v", err)
					return
				}
				var got int64
				if _, err := fmt.Sscan(string(out), &got); err != nil || got < least || got > newest.Load() {
					t.Errorf("version %s answered, current were %d to %d (%v)", out, least, newest.Load(), err)
					return
				}
				calls.Add(1)
			}
		})
	}
	for v := int64(1); v <= 50; v++ {
		newest.Store(v)
		write(v)
		m.Digest = fmt.Sprint("versioned-", v)
		if _, err := h.Reload(t.Context(), m); err != nil {
			t.Errorf("reload %d: %v", v, err)
			break
		}
		oldest.Store(v)
	}
	close(stop)
	callers.Wait()
	t.Logf("%d calls during 50 reloads", calls.Load())
	if calls.Load() == 0 {
		t.Error("no call was made")
	}
}

// TestPythonTracebackReachesTheCaller gives an embedded plugin's exception to the caller with
// its traceback, so that its author can find the line.
func TestPythonTracebackReachesTheCaller(t *testing.T) {
	h, _ := testHost(t, nil)
	mustLoad(t, h, embeddedSample(t, "sample"))
	_, err := h.Call(t.Context(), "sample", "raise", []byte("x"))
	var e *core.Error
	if !errors.As(err, &e) || !strings.Contains(err.Error(), "sample.py\", line") {
		t.Errorf("no traceback in: %v", err)
	}
}

func TestSamplePythonEmbedded(t *testing.T) {
	h, _ := testHost(t, nil)
	embeddedSample(t, "probe") // skips where no Python can be embedded
	m := readExample(t, "python-embedded", "")
	m.Config = map[string]any{"right": 2.5}
	mustLoad(t, h, m)
	if got := mustCall(t, h, m.Name, "score", `{"completion":"so 1,000 + 24 = 1,024","answer":"1024"}`); got != "2.5" {
		t.Errorf("score = %q", got)
	}
	results, err := h.CallBatch(t.Context(), m.Name, "score", [][]byte{
		[]byte(`{"completion":"41","answer":"42"}`), []byte("no json"),
	})
	if err != nil || len(results) != 2 || string(results[0].Result) != "0" || !core.IsCode(results[1].Err, core.CodePluginError) {
		t.Errorf("batch = %v, %v", results, err)
	}
}

// TestSamplePyo3 loads a plugin as written for the Rust original, whose module is
// found through the worker's PYTHONPATH. Python reads that once, when it starts:
// hence the process of its own.
func TestSamplePyo3(t *testing.T) {
	path := example(t, "original-pyo3", "python")
	if os.Getenv("PYTHONPATH") != path {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSamplePyo3$", "-test.count=1")
		cmd.Env = append(os.Environ(), "PYTHONPATH="+path)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	h, _ := testHost(t, nil)
	embeddedSample(t, "probe") // skips where no Python can be embedded
	mustLoad(t, h, readExample(t, "original-pyo3", ""))
	if got := mustCall(t, h, "sample-pyo3", "greet", "you"); got != "hello, you" {
		t.Errorf("greet = %q", got)
	}
	if _, err := h.Call(t.Context(), "sample-pyo3", "absent", nil); !core.IsCode(err, core.CodePluginError) || !strings.Contains(err.Error(), "unknown method absent") {
		t.Errorf("unknown method: %v", err)
	}
}
