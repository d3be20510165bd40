package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// printed is a process that has printed some events already.
func printed(evs ...core.Event) *process {
	return &process{name: "coordinator", events: evs, changed: make(chan struct{}), exited: make(chan struct{})}
}

func failedAt(id string, at time.Time) core.Event {
	return core.Event{Topic: core.TopicWorkerFailed, WorkerID: id, Time: at}
}

// The detector is what the smoke test stands on: it must refuse whatever is not one
// failure of the right worker in time.
func TestTheDetectorCanFail(t *testing.T) {
	died := time.Now()
	for _, c := range []struct {
		name string
		evs  []core.Event
		want string // of the error; empty: detected
	}{
		{"in time", []core.Event{failedAt("a", died.Add(1900*time.Millisecond))}, ""},
		{"too late", []core.Event{failedAt("a", died.Add(2100*time.Millisecond))}, "allowed are"},
		{"before the death", []core.Event{failedAt("a", died.Add(-time.Millisecond))}, "before its death"},
		{"twice", []core.Event{failedAt("a", died.Add(time.Second)), failedAt("a", died.Add(time.Second))}, "2 times"},
		{"another one too", []core.Event{failedAt("a", died.Add(time.Second)), failedAt("b", died.Add(time.Second))}, "though it lives"},
		{"only another one", []core.Event{failedAt("b", died.Add(time.Second))}, "did not print"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		s := &stage{coord: printed(c.evs...), interval: time.Second}
		figure, err := s.detected(ctx, 0, "a", died)
		cancel()
		switch {
		case c.want == "" && (err != nil || !strings.Contains(figure, "1900 ms")):
			t.Errorf("%s: %q, %v", c.name, figure, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestLinesThatAreNoEventsAreReported(t *testing.T) {
	sh, err := os.Stat("/bin/sh")
	if err != nil || sh.IsDir() {
		t.Skip("this machine has no /bin/sh to print something with")
	}
	script := `echo '{"ts":"2026-01-01T00:00:00Z","level":"info","kind":"domain","topic":"x"}'; echo hello; exit 3`
	p, err := start("p", filepath.Join(t.TempDir(), "log"), "/bin/sh", "-c", script)
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{all: []*process{p}}
	if code, err := p.exit(t.Context(), patience); code != 3 || err != nil {
		t.Errorf("it ends with %d, %v", code, err)
	}
	if _, err := p.await(t.Context(), 0, patience, "y", topic("y", "")); err == nil || !strings.Contains(err.Error(), "ended") {
		t.Errorf("waiting for what does not come answers %v", err)
	}
	if err := s.end(); err == nil || !strings.Contains(err.Error(), `"hello"`) || len(p.events) != 1 {
		t.Errorf("the end answers %v with %d events", err, len(p.events))
	}
}

func TestWrongFlags(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir()) // a run that failed keeps its files
	var out strings.Builder
	if code := run(t.Context(), []string{"--nonsense"}, &out, &out); code != 2 {
		t.Errorf("status %d", code)
	}
	if code := run(t.Context(), []string{"--bin", t.TempDir(), "--source", "../..", "--protocols", "h2"}, &out, &out); code != 1 || !strings.Contains(out.String(), "make build") {
		t.Errorf("without programs: status %d, %s", code, out.String())
	}
}

func TestPluginLoadedMustTellEverything(t *testing.T) {
	p := plugin{name: "reward", mode: core.ModeSidecar}
	good := func() core.Event {
		return core.Event{PluginID: "reward-0.1.0", WorkerID: "w", Attrs: core.Attrs{
			"mode": "sidecar", "version": "0.1.0", "start_ms": 12.0,
			"containment": map[string]any{"enforced": []any{"landlock"}, "missing": nil},
		}}
	}
	if took, err := checkLoaded(good(), p); err != nil || took != 12.0 {
		t.Errorf("a good one: %v, %v", took, err)
	}
	for name, spoil := range map[string]func(*core.Event){
		"the mode":        func(ev *core.Event) { ev.Attrs["mode"] = "python" },
		"the version":     func(ev *core.Event) { delete(ev.Attrs, "version") },
		"the plugin_id":   func(ev *core.Event) { ev.PluginID = "" },
		"no worker_id":    func(ev *core.Event) { ev.WorkerID = "" },
		"no start_ms":     func(ev *core.Event) { delete(ev.Attrs, "start_ms") },
		"nothing tells":   func(ev *core.Event) { delete(ev.Attrs, "containment") },
		"neither what is": func(ev *core.Event) { ev.Attrs["containment"] = map[string]any{} },
	} {
		ev := good()
		spoil(&ev)
		if _, err := checkLoaded(ev, p); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestResultsMustBeCompleteAndAgree(t *testing.T) {
	good := func() (rs []core.ItemResult) {
		for i := range itemsEach {
			rs = append(rs, core.ItemResult{ID: "x", Index: int64(i), Status: core.ResultOK, Result: []byte("1"), WorkerID: core.NewWorkerID()})
		}
		return rs
	}
	if err := checkResults(good(), good()); err != nil {
		t.Error(err)
	}
	for name, spoil := range map[string]func([]core.ItemResult) []core.ItemResult{
		"9 results":      func(rs []core.ItemResult) []core.ItemResult { return rs[1:] },
		"result 3 is":    func(rs []core.ItemResult) []core.ItemResult { rs[3].Status = core.ResultError; return rs },
		"result 4 is":    func(rs []core.ItemResult) []core.ItemResult { rs[4].Index = 3; return rs },
		"another plugin": func(rs []core.ItemResult) []core.ItemResult { rs[5].Result = []byte("0"); return rs },
	} {
		if err := checkResults(spoil(good()), good()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestWhatIsLeftIsFound(t *testing.T) {
	if _, _, _, err := readProc(os.Getpid()); err != nil {
		t.Skipf("this system has no /proc: %v", err)
	}
	dir := t.TempDir()
	p, err := start("p", filepath.Join(dir, "log"), "/bin/sh", "-c", "sleep 60 & echo; wait", dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	var ps []proc
	for len(ps) == 0 {
		if ps, err = descendants(p.cmd.Process.Pid); err != nil || t.Context().Err() != nil {
			t.Fatal(ps, err)
		}
	}
	if left, err := strays(dir); err != nil || len(left) != 1 || left[0] != p.cmd.Process.Pid {
		t.Errorf("strays are %v, %v, want %d", left, err, p.cmd.Process.Pid)
	}
	if err := gone(t.Context(), ps, time.Now()); err == nil {
		t.Error("a running child counts as gone")
	}
	p.kill()
	if err := gone(t.Context(), ps, time.Now().Add(patience)); err != nil {
		t.Error(err)
	}
	s := &stage{dir: dir}
	if err := s.socketsGone(); err != nil {
		t.Error(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, "w2", "sidecars", "run-1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.socketsGone(); err == nil || !strings.Contains(err.Error(), "run-1") {
		t.Errorf("a directory that is left: %v", err)
	}
}
