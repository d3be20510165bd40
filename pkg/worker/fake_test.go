package worker

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

const testH = time.Second

// fakeCoordinator is a coordinator as small as the worker can tell: it registers
// epochs, counts silence from receipts, and keeps commands. Time is synctest's.
type fakeCoordinator struct {
	timing core.Timing

	// mu guards the fields below.
	mu          sync.Mutex
	epoch       uint64 // of the coordinator
	worker      uint64 // epoch of the worker
	registered  []core.Registration
	lastReceipt time.Time
	declared    time.Time // when the worker was declared failed; zero: it was not
	deregister  []core.WorkerState
	ended       uint64 // the epoch that was deregistered
	beats       []core.Heartbeat
	beatTimes   []time.Time
	pending     []core.Command
	acks        []core.CommandResult
	subscribed  chan struct{} // closed to end the open command stream; nil: none
	needControl bool
	changed     chan struct{} // closed and replaced at every change

	// The network. A cut makes calls hang until they are cut off, as packets that
	// vanish do.
	upCut, downCut bool
	upDelay        func() time.Duration
	downDelay      func() time.Duration
	onAnswer       func(seq uint64) // called before an answer reaches the worker
	dialErr        error
	beatErr        error // answers every beat
}

func newFake() *fakeCoordinator {
	return &fakeCoordinator{timing: core.DefaultTiming(testH), epoch: 7, changed: make(chan struct{}), upDelay: noDelay, downDelay: noDelay}
}

func (f *fakeCoordinator) changedLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func noDelay() time.Duration { return 0 }

// set changes the fake under its mutex.
func (f *fakeCoordinator) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	f.changedLocked()
}

// until waits for a condition, which is evaluated under the mutex, and for all that
// follows from it at once.
func (f *fakeCoordinator) until(ok func() bool) {
	for {
		f.mu.Lock()
		done, changed := ok(), f.changed
		f.mu.Unlock()
		if done {
			synctest.Wait()
			return
		}
		<-changed
	}
}

// pass is the network in one direction.
func (f *fakeCoordinator) pass(ctx context.Context, cut *bool) error {
	f.mu.Lock()
	d := f.upDelay()
	if cut == &f.downCut {
		d = f.downDelay()
	}
	f.mu.Unlock()
	if err := sleep(ctx, d); err != nil {
		return core.Wrap("fake", core.CodeUnavailable, err)
	}
	for {
		f.mu.Lock()
		gone, changed := *cut, f.changed
		f.mu.Unlock()
		if !gone {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return core.Wrap("fake", core.CodeUnavailable, ctx.Err())
		}
	}
}

// judge declares the worker failed when its silence is long enough.
func (f *fakeCoordinator) judge() {
	if f.worker != 0 && f.declared.IsZero() && time.Since(f.lastReceipt) >= f.timing.Failure {
		f.declared = f.lastReceipt.Add(f.timing.Failure)
	}
}

// fakeLink is one connection to it.
type fakeLink struct {
	f    *fakeCoordinator
	ctx  context.Context
	stop context.CancelFunc
}

func (l *fakeLink) both(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(l.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func (l *fakeLink) Register(ctx context.Context, r core.Registration) (core.Registered, error) {
	ctx, cancel := l.both(ctx)
	defer cancel()
	f := l.f
	if err := f.pass(ctx, &f.upCut); err != nil {
		return core.Registered{}, err
	}
	f.mu.Lock()
	f.judge()
	f.worker++
	f.lastReceipt, f.declared = time.Now(), time.Time{}
	f.registered = append(f.registered, r)
	if f.subscribed != nil {
		close(f.subscribed)
		f.subscribed = nil
	}
	var acked uint64
	if len(f.pending) > 0 {
		acked = f.pending[0].Seq - 1
	}
	for _, a := range f.acks {
		acked = max(acked, a.Seq)
	}
	reg := core.Registered{Run: core.NewRunID(), Epoch: f.worker, CoordinatorEpoch: f.epoch, Timing: f.timing, Protocol: 1, CommandSeq: acked}
	f.changedLocked()
	f.mu.Unlock()
	return reg, f.pass(ctx, &f.downCut)
}

func (l *fakeLink) Deregister(ctx context.Context, w core.WorkerRef, final core.WorkerState, _ string) error {
	ctx, cancel := l.both(ctx)
	defer cancel()
	if err := l.f.pass(ctx, &l.f.upCut); err != nil {
		return err
	}
	l.f.set(func() {
		l.f.deregister = append(l.f.deregister, final)
		l.f.ended = w.Epoch
		if l.f.subscribed != nil {
			close(l.f.subscribed)
			l.f.subscribed = nil
		}
	})
	// The answer takes its time, so that others see the end first.
	return l.f.pass(ctx, &l.f.downCut)
}

func (l *fakeLink) Acknowledge(ctx context.Context, r core.CommandResult) error {
	if err := l.f.pass(ctx, &l.f.upCut); err != nil {
		return err
	}
	l.f.set(func() {
		l.f.acks = append(l.f.acks, r)
		for len(l.f.pending) > 0 && l.f.pending[0].Seq <= r.Seq {
			l.f.pending = l.f.pending[1:]
		}
	})
	return nil
}

func (l *fakeLink) Subscribe(ctx context.Context, w core.WorkerRef, after uint64, opened func(), send func(core.Command) error) error {
	ctx, cancel := l.both(ctx)
	defer cancel()
	f := l.f
	if err := f.pass(ctx, &f.upCut); err != nil {
		return err
	}
	end := make(chan struct{})
	f.mu.Lock()
	if w.Epoch != f.worker || w.Epoch == f.ended {
		f.mu.Unlock()
		return core.Errorf("fake", core.CodeFenced, "old epoch")
	}
	f.subscribed = end
	f.mu.Unlock()
	opened()
	for {
		f.mu.Lock()
		changed := f.changed
		var next *core.Command
		for _, c := range f.pending {
			if c.Seq > after {
				next = &c
				break
			}
		}
		f.mu.Unlock()
		if next != nil {
			if err := send(*next); err != nil {
				return err
			}
			after = next.Seq
			continue
		}
		select {
		case <-changed:
		case <-end:
			return core.Errorf("fake", core.CodeUnavailable, "the stream broke")
		case <-ctx.Done():
			return core.Wrap("fake", core.CodeUnavailable, ctx.Err())
		}
	}
}

func (l *fakeLink) Close() error { l.stop(); return nil }

func (l *fakeLink) Beats(ctx context.Context) (beatStream, error) {
	l.f.mu.Lock()
	defer l.f.mu.Unlock()
	ctx, cancel := l.both(ctx)
	s := &fakeBeats{f: l.f, ctx: ctx, cancel: cancel, sent: make(chan core.Heartbeat, 256), replies: make(chan answer, 256), answers: make(chan answer, 256)}
	s.group.Go(s.serve)
	s.group.Go(s.reply)
	return s, nil
}

// fakeBeats keeps the order of beats and of answers.
type fakeBeats struct {
	f       *fakeCoordinator
	ctx     context.Context
	cancel  context.CancelFunc
	group   sync.WaitGroup
	sent    chan core.Heartbeat
	replies chan answer
	answers chan answer
}

func (s *fakeBeats) Send(h core.Heartbeat) { s.sent <- h }

func (s *fakeBeats) Answers() <-chan answer { return s.answers }

func (s *fakeBeats) Close() error {
	s.cancel()
	s.group.Wait()
	return nil
}

// serve carries beats to the coordinator, and reply answers back, each in order.
func (s *fakeBeats) serve() {
	defer close(s.replies)
	for {
		select {
		case h := <-s.sent:
			if s.f.pass(s.ctx, &s.f.upCut) != nil {
				return
			}
			s.replies <- s.f.take(h)
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *fakeBeats) reply() {
	for a := range s.replies {
		if s.f.pass(s.ctx, &s.f.downCut) == nil {
			if s.f.onAnswer != nil {
				s.f.onAnswer(a.ack.Seq)
			}
			s.answers <- a
		}
	}
}

// take judges one beat.
func (f *fakeCoordinator) take(h core.Heartbeat) answer {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.judge()
	f.beats, f.beatTimes = append(f.beats, h), append(f.beatTimes, time.Now())
	defer f.changedLocked()
	switch {
	case f.beatErr != nil:
		return answer{err: f.beatErr}
	case h.Worker.Epoch != f.worker, h.Worker.Epoch == f.ended, !f.declared.IsZero():
		return answer{err: core.Errorf("fake", core.CodeFenced, "the epoch is over")}
	case f.needControl && f.subscribed == nil:
		return answer{err: core.Errorf("fake", core.CodeFailedPrecondition, "open the command stream first")}
	}
	f.lastReceipt = time.Now()
	return answer{ack: core.BeatAck{Seq: h.Seq, CoordinatorEpoch: f.epoch, ReceivedAt: time.Now()}}
}

// fakeDialer dials it.
type fakeDialer struct{ f *fakeCoordinator }

var errStale = errors.New("an older coordinator")

func (d fakeDialer) dial(context.Context) (link, error) {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	if d.f.dialErr != nil {
		return nil, d.f.dialErr
	}
	ctx, stop := context.WithCancel(context.Background())
	return &fakeLink{f: d.f, ctx: ctx, stop: stop}, nil
}

func (d fakeDialer) stale(err error) bool { return errors.Is(err, errStale) }

func (d fakeDialer) keep(context.Context) {}

func (d fakeDialer) coordinatorEpoch() uint64 {
	d.f.mu.Lock()
	defer d.f.mu.Unlock()
	return d.f.epoch
}

// events collects what is emitted.
type events struct {
	mu  sync.Mutex // guards evs
	evs []core.Event
}

func (e *events) Emit(ev core.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.evs = append(e.evs, ev)
}

func (e *events) Close(context.Context) error { return nil }

func (e *events) topic(topic string) (out []core.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ev := range e.evs {
		if ev.Topic == topic {
			out = append(out, ev)
		}
	}
	return out
}

// rig is one worker of a test.
type rig struct {
	*node
	f      *fakeCoordinator
	events *events
	stop   context.CancelFunc
	done   chan error
	jump   func(d time.Duration) // lets the machine sleep
}

// start runs a worker in the current bubble.
func start(t *testing.T, f *fakeCoordinator, change func(*Config)) *rig {
	t.Helper()
	r := prepare(t, f, change)
	r.run()
	return r
}

func prepare(t *testing.T, f *fakeCoordinator, change func(*Config)) *rig {
	t.Helper()
	ev := &events{}
	cfg := Config{Store: memstore.New(memstore.Options{}), Events: ev, Slots: 1, Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if change != nil {
		change(&cfg)
	}
	cfg = cfg.withDefaults()
	rec, err := openRecord(t.Context(), cfg.Store, cfg.ID)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	slept := time.Hour
	clock := func() instant {
		mu.Lock()
		defer mu.Unlock()
		now := time.Now()
		return instant{at: now, boot: time.Duration(now.UnixNano()) + slept}
	}
	r := &rig{f: f, events: ev, done: make(chan error, 1), node: newNode(cfg, rec, fakeDialer{f}, clock)}
	r.jump = func(d time.Duration) {
		mu.Lock()
		defer mu.Unlock()
		slept += d
	}
	t.Cleanup(func() {
		if err := cfg.Store.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) run() {
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.done <- r.node.run(ctx) }()
}

// leaveNow stops the worker and returns what Run answers.
func (r *rig) leaveNow() error {
	r.stop()
	return <-r.done
}

// seeded makes a random source whose seed is logged.
func seeded(t *testing.T, seed uint64) *rand.Rand {
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}
