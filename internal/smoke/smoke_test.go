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
	if code := run(t.Context(), []string{"--bin", t.TempDir(), "--protocols", "h2"}, &out, &out); code != 1 || !strings.Contains(out.String(), "make build") {
		t.Errorf("without programs: status %d, %s", code, out.String())
	}
}
