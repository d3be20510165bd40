package worker

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Process is a worker with a handle on it: what [Run] runs, for callers that want to
// know how it fares meanwhile.
type Process struct {
	n     *node
	begun atomic.Bool
}

// New prepares a worker: it checks the configuration and opens the worker's identity.
// Nothing runs before [Process.Run], and nothing has to be released without it.
func New(ctx context.Context, cfg Config) (*Process, error) {
	if err := cfg.Validate().Err("worker: new"); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	rec, err := openRecord(ctx, cfg.Store, cfg.ID)
	if err != nil {
		return nil, err
	}
	cfg.Logger = cfg.Logger.With("worker_id", rec.ID)
	d, err := newDialer(cfg, rec)
	if err != nil {
		return nil, err
	}
	return &Process{n: newNode(cfg, rec, d, readClock)}, nil
}

// Run is the life of the worker, as [Run] tells it. It is called once.
func (p *Process) Run(ctx context.Context) error {
	if p.begun.Swap(true) {
		return core.Errorf("worker: run", core.CodeFailedPrecondition, "Run was called before")
	}
	return p.n.run(ctx)
}

// Ready is closed when the worker is registered and its executor is ready, for the
// first time. What happens to later epochs stands in [Process.Status].
func (p *Process) Ready() <-chan struct{} { return p.n.ready }

// Status tells how a worker fares.
type Status struct {
	ID    core.WorkerID
	Epoch uint64           // 0: it is not registered and tries to be
	State core.WorkerState // of this epoch; empty without one
}

// Status returns how the worker fares now. It never waits for input or output.
func (p *Process) Status() Status {
	s := Status{ID: p.n.id}
	if e := p.n.current.Load(); e != nil {
		e.mu.Lock()
		defer e.mu.Unlock()
		s.Epoch, s.State = e.ref.Epoch, e.state
	}
	return s
}

// Alive returns nil while the worker's main loop goes round: the one that beats, or
// the one that registers. Each round says how long the next may take at most; a loop
// that is [lateAfter] beyond that is not alive, whether or not a coordinator can be
// reached. The error is [core.CodeUnavailable]. It is meant for watchdogs; it never
// waits.
func (p *Process) Alive() error { return p.n.pulse.check() }

// lateAfter is how late a round of the main loop may come on a loaded machine.
const lateAfter = 10 * time.Second

// pulse is what the main loop promises of its next round.
type pulse struct {
	mu    sync.Mutex // guards until
	until time.Time  // zero: nothing was promised yet
}

// within promises the next round within d from now.
func (p *pulse) within(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until = time.Now().Add(d)
}

// check returns an error when the last promise was broken.
func (p *pulse) check() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until.IsZero() {
		return core.Errorf("worker: alive", core.CodeUnavailable, "the main loop has not begun")
	}
	if late := time.Since(p.until); late > lateAfter {
		return core.Errorf("worker: alive", core.CodeUnavailable, "the main loop is %v late", late.Round(time.Millisecond))
	}
	return nil
}
