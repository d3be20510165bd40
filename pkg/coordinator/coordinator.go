package coordinator

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/coordinator/liveness"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// The range of protocol versions that this coordinator speaks.
const (
	ProtocolMin = 1
	ProtocolMax = 1
)

// Coordinator keeps the book of workers. Make one with [New] and let [Coordinator.Run]
// serve it; its methods work while Run does.
type Coordinator struct {
	cfg       Config
	log       *slog.Logger
	store     core.Storage
	ownsStore bool
	run       core.RunID
	epoch     uint64
	restored  int // workers taken over alive or suspect from an earlier start
	started   time.Time

	origin time.Time        // of the monotonic clock that liveness counts with
	wall   func() time.Time // for what people read; it decides nothing

	writer   *writer
	outbox   *outbox
	stopping chan struct{} // closed when an ordered shutdown begins
	ready    chan struct{} // closed when Run serves
	running  atomic.Bool   // Run was called
	// lastRound is the moment of the detection loop's last round in nanoseconds of the
	// monotonic clock; 0: none yet.
	lastRound atomic.Int64
	suspends  suspendClock
	work      Workbook // set before anything is served; nil: none
	// returnWork holds one token: something may be owed.
	returnWork chan struct{}
	// Faults and short cuts that only tests of this package set.
	unserved bool                            // Run opens no sockets
	anyEpoch bool                            // a transaction stores what an older epoch says
	part     func(ctx context.Context) error // runs beside the others

	// mu guards what follows and everything inside the workers. It is held for
	// memory work only: no input or output, no waiting, no call that leaves the
	// package but [writer.submit], which only queues.
	mu          sync.Mutex
	machine     *liveness.Machine
	workers     map[core.WorkerID]*worker
	dirty       []*worker     // beats not yet written to the ledger
	owedNow     []owed        // ended epochs whose work is returned at once
	owedSlow    []owed        // the same, held back after a mass failure
	slowNext    time.Duration // when the next of owedSlow may be returned
	deaf        bool          // liveness has ended: broken connections mean nothing
	skewReports skewLimit
	addr        string
}

var (
	_ core.Coordinator = (*Coordinator)(nil)
	_ core.Enroller    = (*Coordinator)(nil)
	_ core.Admin       = (*Coordinator)(nil)
	_ core.Work        = (*Coordinator)(nil)
)

// worker is what memory knows of one worker. The store has the rest.
type worker struct {
	id           core.WorkerID
	epoch        uint64
	state        core.WorkerState
	liveness     core.Liveness
	registeredAt time.Duration // on the monotonic clock; below 0: in an earlier start
	lastSeen     time.Time     // receipt of the last beat, wall clock
	beatSeq      uint64
	slotsBusy    int
	skew         time.Duration
	skewed       int  // beats in a row beyond the skew budget
	dirty        bool // in Coordinator.dirty
	book         book
	control      *subscription // the control stream; nil: none
	work         int           // open work streams of this epoch
	changed      chan struct{} // closed and replaced when book or liveness change
}

func (w *worker) ref() core.WorkerRef { return core.WorkerRef{ID: w.id, Epoch: w.epoch} }

// over reports whether the worker's epoch has ended.
func (w *worker) over() bool {
	return w.liveness == core.LivenessFailed || w.liveness == core.LivenessDeregistered
}

// announce wakes everyone who waits for a change of this worker.
func (w *worker) announce() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// Run opens a coordinator and serves it until ctx ends or a part of it fails. It
// returns nil after an ordered shutdown, else the cause.
func Run(ctx context.Context, cfg Config) error {
	c, err := New(cfg)
	if err != nil {
		return err
	}
	return c.Run(ctx)
}

// Ready is closed when the coordinator serves; [Coordinator.Addr] tells where.
func (c *Coordinator) Ready() <-chan struct{} { return c.ready }

// Addr returns host:port that the coordinator serves on, and "" before it does.
func (c *Coordinator) Addr() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.addr
}

// RunID returns the run that this coordinator's store belongs to.
func (c *Coordinator) RunID() core.RunID { return c.run }

// Epoch returns the epoch that this start has taken.
func (c *Coordinator) Epoch() uint64 { return c.epoch }

// now reads the monotonic clock that liveness counts with.
func (c *Coordinator) now() time.Duration { return time.Since(c.origin) }

// current returns the worker of a living epoch, or [core.CodeFenced]. mu is held.
func (c *Coordinator) current(ref core.WorkerRef) (*worker, error) {
	w := c.workers[ref.ID]
	switch {
	case w == nil:
		return nil, core.Errorf("coordinator", core.CodeFenced, "worker %s is not registered, register first", ref.ID)
	case w.epoch != ref.Epoch:
		return nil, fencedBy(ref, w.epoch)
	case w.over():
		return nil, fencedOver(ref, w.liveness)
	}
	return w, nil
}

func fencedBy(ref core.WorkerRef, epoch uint64) error {
	return core.Errorf("coordinator", core.CodeFenced, "epoch %d of worker %s is over, the registered one is %d", ref.Epoch, ref.ID, epoch)
}

func fencedOver(ref core.WorkerRef, l core.Liveness) error {
	return core.Errorf("coordinator", core.CodeFenced, "epoch %d of worker %s is over: it is %s, register again", ref.Epoch, ref.ID, l)
}

// event returns a domain event of this run.
func (c *Coordinator) event(topic string, level core.EventLevel, w core.WorkerID, attrs core.Attrs) core.Event {
	ev := core.Event{Time: c.wall(), Level: level, Kind: core.EventDomain, Topic: topic, RunID: c.run.String(), Attrs: attrs}
	if w != (core.WorkerID{}) {
		ev.WorkerID = w.String()
	}
	return ev
}
