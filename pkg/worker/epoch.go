package worker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// epoch is one registration and what runs under it.
type epoch struct {
	w      *node
	log    *slog.Logger
	link   link
	ref    core.WorkerRef
	reg    core.Registered
	timing core.Timing
	lease  *lease
	// doubtUntil is how long the end of this epoch may come from an earlier attempt of
	// this very worker to register, which arrived late.
	doubtUntil time.Time

	ctx     context.Context // ends with the epoch; its cause says why
	cancel  context.CancelCauseFunc
	kick    chan struct{} // one token: beat now
	opened  chan struct{} // closed when the command stream is first open
	ready   chan struct{} // closed when a beat in state ready was acknowledged
	fenced  sync.Once
	bench   *workbench    // nil where the link carries no work
	working chan struct{} // closed when the bench may begin

	// mu guards the fields below; nothing is called while it is held.
	mu               sync.Mutex
	state            core.WorkerState
	coordinatorEpoch uint64             // of the last answer
	reopen           context.CancelFunc // ends the open command stream; nil: none is open
	leaving          bool               // the coordinator is being told that the epoch is over
}

// runEpoch runs everything of one epoch and returns why it ended: errFenced, errLeft
// or what ends the worker.
func (w *node) runEpoch(ctx context.Context, reg core.Registered) error {
	e := &epoch{
		w: w, link: w.link, reg: reg, timing: reg.Timing, lease: newLease(w.clock(), reg.Timing.SelfFence),
		ref: core.WorkerRef{ID: w.rec.ID, Epoch: reg.Epoch}, log: w.log.With("epoch", reg.Epoch),
		kick: make(chan struct{}, 1), opened: make(chan struct{}), ready: make(chan struct{}), working: make(chan struct{}),
		state: core.StateInit, coordinatorEpoch: reg.CoordinatorEpoch, doubtUntil: w.unclear.Add(lateArrival),
	}
	e.ctx, e.cancel = context.WithCancelCause(ctx)
	defer e.cancel(errLeft)
	if l, ok := w.link.(workLink); ok {
		e.bench = newWorkbench(e, l)
		defer e.bench.cut()
	}
	e.log.Info("registered", "coordinator_epoch", reg.CoordinatorEpoch, "heartbeat_interval", e.timing.HeartbeatInterval)
	w.current.Store(e)
	defer w.current.Store(nil)

	var group sync.WaitGroup
	for _, part := range []func(context.Context) error{e.beat, e.control, e.watchLease, e.work, e.live} {
		group.Go(func() { e.cancel(part(e.ctx)) })
	}
	group.Wait()
	cause := context.Cause(e.ctx)
	if errors.Is(cause, errFenced) {
		w.dropLink() // what made the worker deaf may sit in the connection
	}
	return cause
}

// watchLease fences when the lease runs out, whatever the other parts wait for.
func (e *epoch) watchLease(ctx context.Context) error {
	for {
		left := e.lease.left(e.w.clock())
		if left == 0 {
			return e.fence("the lease ran out")
		}
		if sleep(ctx, left) != nil {
			return context.Cause(ctx)
		}
	}
}

// act reports whether the worker may act now, and fences when it may not. It is
// called before everything that the coordinator or a plugin can see.
func (e *epoch) act() error {
	if e.lease.holds(e.w.clock()) {
		return nil
	}
	return e.fence("the lease ran out")
}

// fence ends the epoch: what runs is cancelled first, then the executor and the
// event stream are told. It returns errFenced.
func (e *epoch) fence(reason string) error {
	e.cancel(errFenced)
	e.fenced.Do(func() {
		if !errors.Is(context.Cause(e.ctx), errFenced) {
			return // the epoch had ended before, for another reason
		}
		now, last := e.w.clock(), e.lease.lastAck()
		silent := now.since(last)
		e.log.Warn("fenced", "reason", reason, "silent", silent)
		e.w.cfg.Events.Emit(core.Event{
			Time: now.at, Level: core.LevelWarn, Kind: core.EventDomain, Topic: core.TopicWorkerFenced,
			RunID: e.reg.Run.String(), WorkerID: e.ref.ID.String(), Message: reason,
			Attrs: core.Attrs{"last_ack_at": last.at.UTC().Format(time.RFC3339Nano), "silent_ms": silent.Milliseconds(), "epoch": e.ref.Epoch},
		})
		err := hook(context.WithoutCancel(e.ctx), "fence", hookGrace, func(context.Context) error {
			e.w.cfg.Executor.Fence(reason)
			return nil
		})
		if err != nil {
			e.log.Error("the executor did not fence at once", "err", err)
		}
	})
	return errFenced
}

// answered judges an error of the coordinator that may end the epoch. It returns nil
// when the call is only to be repeated.
func (e *epoch) answered(err error) error {
	switch {
	case err == nil, e.w.dialer.stale(err), e.isLeaving():
		return nil
	case core.IsCode(err, core.CodeFenced):
		return e.over(err)
	case refused(err):
		// The certificate may have run out; registering again finds out.
		e.log.Warn("the coordinator refuses the worker", "err", err)
		return e.fence("refused by the coordinator: " + err.Error())
	}
	return nil
}

// over is called when the coordinator says that the epoch is over. While a proven
// lease holds under the same coordinator, it cannot have declared this worker failed,
// so another process has registered with the same identity, or an earlier attempt of
// this one has.
func (e *epoch) over(err error) error {
	e.mu.Lock()
	same := e.coordinatorEpoch >= e.w.dialer.coordinatorEpoch()
	e.mu.Unlock()
	if !same || !e.lease.provenAt(e.w.clock()) || time.Now().Before(e.doubtUntil) {
		return e.fence("the coordinator has ended the epoch")
	}
	replaced := core.Errorf("worker: run", core.CodeFenced,
		"a newer epoch of worker %s has taken over epoch %d: another process uses the same identity: %w", e.ref.ID, e.ref.Epoch, err)
	e.cancel(replaced)
	return replaced
}

// setState changes what beats say, and beats at once.
func (e *epoch) setState(s core.WorkerState) {
	e.mu.Lock()
	if e.state.CanBecome(s) {
		e.state = s
	}
	e.mu.Unlock()
	e.beatNow()
}

// isLeaving reports whether this worker is ending the epoch itself, so that being told
// of its end is no news.
func (e *epoch) isLeaving() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.leaving
}

func (e *epoch) beatNow() {
	select {
	case e.kick <- struct{}{}:
	default: // a token is there already
	}
}
