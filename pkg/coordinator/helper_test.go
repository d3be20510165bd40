package coordinator

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testH = 500 * time.Millisecond

func workerID(n int) core.WorkerID {
	var id core.WorkerID
	binary.BigEndian.PutUint64(id[8:], uint64(n)+1)
	return id
}

// recorder is an emitter that keeps what it prints.
type recorder struct {
	mu     sync.Mutex // guards what follows
	events []core.Event
	stuck  bool  // nothing is printed
	broken error // answers every event with it
}

var _ core.AckEmitter = (*recorder)(nil)

func (r *recorder) Emit(ev core.Event) { r.EmitAck(ev, func(error) {}) }

func (r *recorder) EmitAck(ev core.Event, done func(error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.stuck:
		return
	case r.broken != nil:
		go done(r.broken)
		return
	}
	r.events = append(r.events, ev)
	go done(nil)
}

func (r *recorder) Close(context.Context) error { return nil }

// topics returns "topic worker-number" of every printed domain event of workers.
func (r *recorder) of(topics ...string) (out []core.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ev := range r.events {
		if slices.Contains(topics, ev.Topic) {
			out = append(out, ev)
		}
	}
	return out
}

func (r *recorder) story(id core.WorkerID) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, ev := range r.events {
		if ev.WorkerID == id.String() {
			out = append(out, strings.TrimPrefix(ev.Topic, "worker_"))
		}
	}
	return strings.Join(out, " ")
}

// testLog shows the coordinator's log with the test's own output.
func testLog(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// started is a running coordinator of a test.
type started struct {
	*Coordinator
	rec  *recorder
	stop func() error // ends it once and returns what Run returned
}

// start runs a coordinator without sockets on s. Everything ends with the test.
func start(t testing.TB, s core.Storage, adjust ...func(*Config, *Coordinator)) *started {
	t.Helper()
	st := prepare(t, s, adjust...)
	st.run(t)
	return st
}

func prepare(t testing.TB, s core.Storage, adjust ...func(*Config, *Coordinator)) *started {
	t.Helper()
	rec := &recorder{}
	cfg := Config{Storage: s, Timing: core.DefaultTiming(testH), Emitter: rec, Logger: testLog(t), Version: "test", StopTimeout: time.Second}
	for _, f := range adjust {
		f(&cfg, nil)
	}
	if r, ok := cfg.Emitter.(*recorder); ok {
		rec = r
	}
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	c.unserved = true
	for _, f := range adjust {
		f(&cfg, c)
	}
	return &started{Coordinator: c, rec: rec}
}

func (st *started) run(t testing.TB) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	var err error
	go func() { defer close(ended); err = st.Run(ctx) }()
	st.stop = func() error { cancel(); <-ended; return err }
	select {
	case <-st.Ready():
	case <-ended:
		select {
		case <-st.Ready(): // it was, before it ended
		default:
			t.Fatalf("the coordinator ended: %v", err)
		}
	}
	t.Cleanup(func() {
		cancel()
		<-ended
	})
}

// wait waits until Run ends by itself.
func (st *started) wait() error {
	<-st.stopped()
	return st.stop()
}

func (st *started) stopped() <-chan struct{} { return st.Coordinator.stopping }

// member is a worker as a test plays it.
type member struct {
	c      *started
	id     core.WorkerID
	ref    core.WorkerRef
	seq    uint64
	state  core.WorkerState
	cancel context.CancelFunc
	mu     sync.Mutex // guards got
	got    []core.Command
	ended  chan struct{} // closed when the control stream has ended
	end    *error        // why; valid after ended
}

// join registers a worker and opens its control stream.
func (st *started) join(t testing.TB, n int) *member {
	t.Helper()
	m := &member{c: st, id: workerID(n), state: core.StateInit}
	m.register(t)
	return m
}

func (m *member) register(t testing.TB) core.Registered {
	t.Helper()
	reg, err := m.c.Register(t.Context(), core.Registration{
		ID: m.id, PrevEpoch: m.ref.Epoch, Addr: "127.0.0.1:9", Version: "test", ProtocolMin: 1, ProtocolMax: 1, Slots: 2,
		RestartReason: "start",
	})
	if err != nil {
		t.Fatalf("register: %v", err)
	}
	m.ref, m.seq, m.state = core.WorkerRef{ID: m.id, Epoch: reg.Epoch}, 0, core.StateInit
	m.subscribe(t, reg.CommandSeq)
	return reg
}

// subscribe opens the control stream; it is open when subscribe returns.
func (m *member) subscribe(t testing.TB, after uint64) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended, end, ref := make(chan struct{}), new(error), m.ref
	m.cancel, m.ended, m.end = cancel, ended, end
	go func() {
		defer close(ended)
		*end = m.c.Subscribe(ctx, ref, after, func(cmd core.Command) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.got = append(m.got, cmd)
			return nil
		})
	}()
	t.Cleanup(func() { cancel(); <-ended })
	m.c.eventually(t, func() bool {
		w := m.c.workers[m.id]
		return w != nil && w.control != nil || closedChan(ended)
	})
}

func closedChan(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// eventually polls what memory says, with the lock held.
func (st *started) eventually(t testing.TB, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		st.mu.Lock()
		done := ok()
		st.mu.Unlock()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("what was waited for did not happen within a minute")
		}
		<-time.After(time.Millisecond) // in a bubble the time is fake
	}
}

func (m *member) beat(t testing.TB) error {
	t.Helper()
	m.seq++
	ack, err := m.c.Beat(t.Context(), core.Heartbeat{Worker: m.ref, Seq: m.seq, SentAt: time.Now(), State: m.state})
	if err == nil && (ack.Seq != m.seq || ack.CoordinatorEpoch != m.c.Epoch()) {
		t.Errorf("beat %d was answered with %+v", m.seq, ack)
	}
	return err
}

func (m *member) become(t testing.TB, s core.WorkerState) {
	t.Helper()
	m.state = s
	if err := m.beat(t); err != nil {
		t.Fatalf("beat as %s: %v", s, err)
	}
}

// keepBeating beats every H until the returned function is called.
func (m *member) keepBeating(t testing.TB) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(testH)
		defer tick.Stop()
		for {
			if err := m.beat(t); err != nil && t.Context().Err() == nil && !errors.Is(err, context.Canceled) {
				t.Errorf("beat of %v: %v", m.ref, err)
			}
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	}()
	return sync.OnceFunc(func() { close(done); <-ended })
}

func newStore() *memstore.Store { return memstore.New(memstore.Options{}) }

func wantCode(t testing.TB, err error, code core.Code) {
	t.Helper()
	if !core.IsCode(err, code) {
		t.Errorf("want %s, got %v (%s)", code, err, core.CodeOf(err))
	}
}
