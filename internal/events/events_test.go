package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gate is a sink whose writes wait until it is opened, and fail as told.
type gate struct {
	open chan struct{}

	mu   sync.Mutex // guards buf and errs
	buf  bytes.Buffer
	errs []error // one for each write to come; a write with an error takes half of its bytes
}

func newGate(open bool) *gate {
	g := &gate{open: make(chan struct{})}
	if open {
		close(g.open)
	}
	return g
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.open
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.errs) > 0 {
		err := g.errs[0]
		g.errs = g.errs[1:]
		if err != nil {
			g.buf.Write(p[:len(p)/2])
			return len(p) / 2, err
		}
	}
	return g.buf.Write(p)
}

func (g *gate) text() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.buf.String()
}

// parse reads every line and fails on one that is not a whole event.
func (g *gate) parse(t *testing.T) []core.Event {
	t.Helper()
	var out []core.Event
	for l := range strings.Lines(g.text()) {
		var ev core.Event
		if err := json.Unmarshal([]byte(l), &ev); err != nil {
			t.Fatalf("line %q is not an event: %v", l, err)
		}
		out = append(out, ev)
	}
	return out
}

func newEmitter(t *testing.T, cfg Config) *Emitter {
	t.Helper()
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func domain(topic string) core.Event {
	return core.Event{Kind: core.EventDomain, Topic: topic}
}

func TestLineHasTheFieldsInOrderAndNoEmptyOnes(t *testing.T) {
	var buf bytes.Buffer
	at := time.Date(2026, 3, 4, 5, 6, 7, 8000, time.FixedZone("x", 3600))
	AppendLine(&buf, core.Event{
		Time: at, Level: core.LevelWarn, Kind: core.EventDomain, Topic: core.TopicWorkerFailed,
		RunID: "R", WorkerID: "W", TraceID: "T", SpanID: "S", PluginID: "p-1", Message: "a < b & \"c\"",
		Attrs: core.Attrs{"silent_ms": 12, "due_at": "x"}, Replayed: true,
	})
	AppendLine(&buf, core.Event{Time: at, Level: core.LevelInfo, Kind: core.EventLog})
	want := `{"ts":"2026-03-04T04:06:07.000008000Z","level":"warn","kind":"domain","topic":"worker_failed","run_id":"R","worker_id":"W","trace_id":"T","span_id":"S","plugin_id":"p-1","message":"a < b & \"c\"","attrs":{"due_at":"x","silent_ms":12},"replayed":true}
{"ts":"2026-03-04T04:06:07.000008000Z","level":"info","kind":"log"}
`
	if buf.String() != want {
		t.Errorf("lines are\n%swant\n%s", buf.String(), want)
	}
}

func TestAttrsThatCannotBeEncodedCostOnlyThemselves(t *testing.T) {
	var buf bytes.Buffer
	AppendLine(&buf, core.Event{Topic: "x", Attrs: core.Attrs{"f": math.NaN()}})
	if !strings.Contains(buf.String(), `"topic":"x"`) || !strings.Contains(buf.String(), "encode_error") {
		t.Errorf("line is %s", buf.String())
	}
}

func TestEventsComeOutInOrderAndBelowLevelOnesDoNot(t *testing.T) {
	g := newGate(true)
	e := newEmitter(t, Config{Writer: g})
	below := make(chan error, 1)
	for i := range 500 {
		ev := domain(fmt.Sprint(i))
		if i%2 == 1 {
			ev.Level = core.LevelDebug
		}
		e.Emit(ev)
	}
	e.EmitAck(core.Event{Level: core.LevelDebug}, func(err error) { below <- err })
	if err := <-below; err != nil {
		t.Errorf("an event below the level is answered with %v", err)
	}
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	evs := g.parse(t)
	if len(evs) != 250 {
		t.Fatalf("%d events came out, want 250", len(evs))
	}
	for i, ev := range evs {
		if ev.Topic != fmt.Sprint(2*i) {
			t.Fatalf("event %d is %s", i, ev.Topic)
		}
	}
}

func TestTheLevelMayChange(t *testing.T) {
	var out bytes.Buffer
	e, err := New(Config{Writer: &out, Level: core.LevelWarn})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range []core.EventLevel{core.LevelDebug, core.LevelWarn, core.LevelError} {
		e.SetLevel(l)
		for _, of := range []core.EventLevel{core.LevelDebug, core.LevelInfo, core.LevelWarn} {
			e.Emit(core.Event{Level: of, Kind: core.EventDomain, Topic: "at-" + string(l)})
		}
	}
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if debug, warn, errs := strings.Count(out.String(), "at-debug"), strings.Count(out.String(), "at-warn"), strings.Count(out.String(), "at-error"); debug != 3 || warn != 1 || errs != 0 {
		t.Errorf("%d, %d and %d events of three were printed at debug, warn and error", debug, warn, errs)
	}
}

func TestABlockedSinkCostsTheCallerNothingAndNoDomainEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(false)
		e := newEmitter(t, Config{Writer: g, Buffer: 10})
		e.Emit(domain("first"))
		synctest.Wait() // the writer now blocks with the first event
		var full error
		for i := range 100 {
			e.Emit(core.Event{Kind: core.EventLog, Message: fmt.Sprint(i)})
			e.Emit(core.Event{Kind: core.EventMetric, Topic: "m"})
			e.Emit(domain(fmt.Sprint("d", i)))
		}
		e.EmitAck(core.Event{Kind: core.EventLog}, func(err error) { full = err })
		synctest.Wait()
		if !core.IsCode(full, core.CodeExhausted) {
			t.Errorf("a dropped event is answered with %v", full)
		}
		close(g.open)
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		var domains, droppable int
		var report core.Event
		for _, ev := range g.parse(t) {
			switch {
			case ev.Topic == core.TopicEventsDropped:
				report = ev
			case ev.Kind == core.EventDomain:
				domains++
			default:
				droppable++
			}
		}
		if domains != 101 || droppable != 10 {
			t.Errorf("%d domain and %d other events came out, want 101 and 10", domains, droppable)
		}
		if report.Attrs["dropped"] != 191.0 || report.Attrs["metric"] != 95.0 || report.Attrs["log"] != 96.0 {
			t.Errorf("the report of dropped events is %v", report.Attrs)
		}
	})
}

func TestATransientErrorTearsNoLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(true)
		g.errs = []error{syscall.ENOSPC, io.ErrShortWrite, syscall.EIO}
		e := newEmitter(t, Config{Writer: g})
		acked := 0
		for i := range 20 {
			e.EmitAck(domain(fmt.Sprint(i)), func(err error) {
				if err != nil {
					t.Error(err)
				}
				acked++
			})
		}
		if err := e.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if evs := g.parse(t); len(evs) != 20 || acked != 20 {
			t.Errorf("%d events came out and %d were acknowledged, want 20", len(evs), acked)
		}
	})
}

func TestABrokenPipeIsFinalAndCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate(true)
		g.errs = []error{nil, syscall.EPIPE}
		e := newEmitter(t, Config{Writer: g})
		var answers []error
		for range 4 {
			e.EmitAck(domain("x"), func(err error) { answers = append(answers, err) })
			synctest.Wait()
		}
		err := e.Close(t.Context())
		if !errors.Is(err, syscall.EPIPE) || !strings.Contains(err.Error(), "3 events") {
			t.Errorf("Close answers %v", err)
		}
		if len(answers) != 4 || answers[0] != nil || !core.IsCode(answers[1], core.CodeBroken) || !core.IsCode(answers[3], core.CodeBroken) {
			t.Errorf("events are answered with %v", answers)
		}
	})
}

func TestCloseGivesUpWhenItsContextEnds(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	e := newEmitter(t, Config{Writer: w})
	answers := make(chan error, 40)
	for range 40 { // more than a pipe holds, and nobody reads
		e.EmitAck(core.Event{Kind: core.EventDomain, Message: strings.Repeat("x", 4096)}, func(err error) { answers <- err })
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := e.Close(ctx); !core.IsCode(err, core.CodeBroken) {
		t.Errorf("Close answers %v", err)
	}
	var unwritten int
	for range 40 {
		if core.IsCode(<-answers, core.CodeClosed) {
			unwritten++
		}
	}
	if unwritten == 0 {
		t.Error("every event is said to be written into a full pipe")
	}
	e.Emit(domain("late"))
	late := make(chan error, 1)
	e.EmitAck(domain("late"), func(err error) { late <- err })
	if err := <-late; !core.IsCode(err, core.CodeClosed) {
		t.Errorf("an event after Close is answered with %v", err)
	}
	if err := e.Close(t.Context()); err == nil {
		t.Error("a second Close hides what was lost")
	}
}

func TestManyGoroutines(t *testing.T) {
	g := newGate(true)
	e := newEmitter(t, Config{Writer: g, Buffer: 1 << 20})
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 200 {
				e.Emit(core.Event{Kind: core.EventMetric, WorkerID: fmt.Sprint(i), Attrs: core.Attrs{"j": j}})
			}
		})
	}
	wg.Wait()
	if err := e.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	next := map[string]float64{}
	for _, ev := range g.parse(t) {
		if ev.Attrs["j"] != next[ev.WorkerID] {
			t.Fatalf("worker %s has %v, want %v", ev.WorkerID, ev.Attrs["j"], next[ev.WorkerID])
		}
		next[ev.WorkerID]++
	}
	if len(next) != 16 || next["3"] != 200 {
		t.Errorf("events came out as %v", next)
	}
}

func TestConfigNamesEveryViolation(t *testing.T) {
	if _, err := New(Config{Buffer: -1}); !core.IsCode(err, core.CodeConfigInvalid) || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("New answers %v", err)
	}
}

func BenchmarkEmit(b *testing.B) {
	for _, c := range []struct {
		name string
		kind core.EventKind
	}{{"domain", core.EventDomain}, {"metric", core.EventMetric}} {
		b.Run(c.name, func(b *testing.B) {
			e, err := New(Config{Writer: io.Discard, Level: core.LevelDebug})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				e.Emit(core.Event{Kind: c.kind, Topic: core.TopicWorkerHeartbeat, Attrs: core.Attrs{"state": "ready", "seq": 7}})
			}
			b.StopTimer()
			if err := e.Close(b.Context()); err != nil {
				b.Fatal(err)
			}
		})
	}
	b.Run("baseline=json.Encoder", func(b *testing.B) {
		enc := json.NewEncoder(io.Discard)
		b.ReportAllocs()
		for b.Loop() {
			ev := core.Event{Time: time.Now(), Kind: core.EventMetric, Topic: core.TopicWorkerHeartbeat, Attrs: core.Attrs{"state": "ready", "seq": 7}}
			if err := enc.Encode(ev); err != nil {
				b.Fatal(err)
			}
		}
	})
}
