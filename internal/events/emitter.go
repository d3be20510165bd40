package events

import (
	"context"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// DefaultBuffer is how many log, metric and span events wait at most where
// [Config.Buffer] is zero.
const DefaultBuffer = 4096

// Config says where events go.
type Config struct {
	Writer io.Writer       // required; the emitter is its only writer and does not close it
	Level  core.EventLevel // events below are discarded; empty: info
	Buffer int             // log, metric and span events that may wait; 0: [DefaultBuffer]
}

// Validate returns every broken rule.
func (c Config) Validate() core.Violations {
	var vs core.Violations
	if c.Writer == nil {
		vs = append(vs, core.Violation{Key: "Writer", Msg: "is nil, give the stream that events are printed to"})
	}
	if c.Buffer < 0 {
		vs = append(vs, core.Violation{Key: "Buffer", Msg: "is negative, give 0 for the default or a number of events"})
	}
	return vs
}

// item is one queued event.
type item struct {
	ev   core.Event
	done func(error) // nil: nobody asked
}

// Emitter is a [core.AckEmitter] on a stream. Make one with [New].
type Emitter struct {
	out     io.Writer
	minRank atomic.Int64 // [Emitter.SetLevel] changes it
	buffer  int

	wake     chan struct{} // one token: the queue may hold something
	closing  chan struct{} // closed by Close: write what is queued, then end
	abandon  chan struct{} // closed when Close's context ended: give up
	finished chan struct{} // closed when the writing goroutine has ended

	// mu guards queue, waiting, dropped, closed and abandoned. Nothing is called
	// or sent while it is held, except the non-blocking token to wake.
	mu        sync.Mutex
	queue     []item
	waiting   int // events of queue that may be dropped
	dropped   drops
	closed    bool
	abandoned bool

	// unwritten and sinkErr belong to the writing goroutine until finished is closed.
	unwritten int64
	sinkErr   error
}

var _ core.AckEmitter = (*Emitter)(nil)

// New starts an emitter. It must be closed to end its goroutine.
func New(cfg Config) (*Emitter, error) {
	if err := cfg.Validate().Err("events: new"); err != nil {
		return nil, err
	}
	if cfg.Buffer == 0 {
		cfg.Buffer = DefaultBuffer
	}
	e := &Emitter{
		out: cfg.Writer, buffer: cfg.Buffer,
		wake: make(chan struct{}, 1), closing: make(chan struct{}),
		abandon: make(chan struct{}), finished: make(chan struct{}),
	}
	e.SetLevel(cfg.Level)
	go e.run()
	return e, nil
}

// SetLevel changes below which level events are discarded from now on; empty: info.
func (e *Emitter) SetLevel(l core.EventLevel) { e.minRank.Store(int64(l.Rank())) }

// prints reports whether events of a level are not discarded.
func (e *Emitter) prints(l core.EventLevel) bool { return int64(l.Rank()) >= e.minRank.Load() }

// Emit implements [core.EventEmitter].
func (e *Emitter) Emit(ev core.Event) { e.push(item{ev: ev}) }

// EmitAck implements [core.AckEmitter].
func (e *Emitter) EmitAck(ev core.Event, done func(error)) { e.push(item{ev: ev, done: done}) }

func (e *Emitter) push(it item) {
	fill(&it.ev)
	if !e.prints(it.ev.Level) {
		if it.done != nil {
			go it.done(nil) // never on the caller's goroutine, which may hold locks
		}
		return
	}
	switch e.enqueue(it) {
	case queued:
		select {
		case e.wake <- struct{}{}:
		default: // a token is there already
		}
	case refusedClosed:
		if it.done != nil {
			go it.done(errClosed())
		}
	case refusedFull:
		if it.done != nil {
			go it.done(core.Errorf("events: emit", core.CodeExhausted, "%d events are waiting for the sink", e.buffer))
		}
	}
}

// verdict is what enqueue did with an event.
type verdict int

const (
	queued verdict = iota
	refusedFull
	refusedClosed
)

func (e *Emitter) enqueue(it item) verdict {
	domain := it.ev.Kind == core.EventDomain
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return refusedClosed
	case !domain && e.waiting >= e.buffer:
		e.dropped.add(it.ev.Kind)
		return refusedFull
	}
	if !domain {
		e.waiting++
	}
	e.queue = append(e.queue, it)
	return queued
}

// take hands over what is queued and starts the next queue in spare, or returns
// nil and leaves everything as it is. The report of dropped events comes last,
// because they were dropped after everything that is queued now.
func (e *Emitter) take(spare []item) []item {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.queue) == 0 {
		return nil
	}
	batch := e.queue
	e.queue, e.waiting = spare[:0], 0
	if e.dropped.total() > 0 {
		if report := e.dropped.event(time.Now()); e.prints(report.Level) {
			batch = append(batch, item{ev: report})
		}
		e.dropped = drops{}
	}
	return batch
}

// Close implements [core.EventEmitter]. It may be called again with another
// context; the first call decides when writing is given up.
func (e *Emitter) Close(ctx context.Context) error {
	e.mu.Lock()
	first := !e.closed
	e.closed = true
	e.mu.Unlock()
	if first {
		close(e.closing)
	}
	select {
	case <-e.finished:
		return e.closeError()
	case <-ctx.Done():
	}
	e.giveUp()
	// A sink that blocks inside Write cannot be interrupted unless it has
	// deadlines; its goroutine ends when the write does.
	select {
	case <-e.finished:
		return e.closeError()
	case <-time.After(abandonGrace):
		e.mu.Lock()
		n := len(e.queue)
		e.mu.Unlock()
		return core.Errorf("events: close", core.CodeDeadlineExceeded, "the sink is blocked with %d or more events unwritten", n+1)
	}
}

// abandonGrace is how long Close waits for the writing goroutine after it gave up.
const abandonGrace = 100 * time.Millisecond

func (e *Emitter) giveUp() {
	e.mu.Lock()
	first := !e.abandoned
	e.abandoned = true
	e.mu.Unlock()
	if !first {
		return
	}
	close(e.abandon)
	if d, ok := e.out.(interface{ SetWriteDeadline(time.Time) error }); ok {
		// Where the sink has no deadline support the write stays blocked, which
		// Close reports.
		_ = d.SetWriteDeadline(time.Unix(1, 0))
	}
}

// closeError is read after finished is closed.
func (e *Emitter) closeError() error {
	if e.sinkErr == nil && e.unwritten == 0 {
		return nil
	}
	cause := e.sinkErr
	if cause == nil {
		cause = errClosed()
	}
	return core.Errorf("events: close", core.CodeBroken, "%d events were not written: %w", e.unwritten, cause)
}

func errClosed() error {
	return core.Errorf("events: emit", core.CodeClosed, "the emitter was closed")
}
