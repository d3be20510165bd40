package worker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Run is the life of a worker. It returns nil after it has drained: because ctx
// ended, a drain was ordered, or the machine was announced to go away. Its errors:
// [core.CodeFenced] when another process has taken over the identity, what the
// coordinator refused the worker with, an unresolvable host name at the very first
// start, and what Init of the executor answered.
func Run(ctx context.Context, cfg Config) error {
	p, err := New(ctx, cfg)
	if err != nil {
		return err
	}
	return p.Run(ctx)
}

// Reasons that end an epoch or the worker, as causes of contexts.
var (
	errFenced  = errors.New("the lease ran out")                   // register again
	errLeft    = errors.New("the worker has left")                 // the end
	errStopNow = errors.New("the worker was told to stop at once") // the end, undrained
)

// node is one worker across all its epochs.
type node struct {
	cfg    Config
	log    *slog.Logger
	id     core.WorkerID
	dialer dialer
	clock  func() instant

	leave    *departure
	commands *commands
	current  atomic.Pointer[epoch] // the epoch that runs, nil between two
	pulse    pulse                 // of beat while an epoch runs, of life between two
	ready    chan struct{}         // closed when an epoch is ready for the first time
	readied  sync.Once             // closes ready

	// Owned by the goroutine of life.
	rec       record
	link      link
	inventory core.Inventory
	interval  time.Duration // H as last told; bounds reconnects
	started   bool          // Init has been called
	unclear   time.Time     // of the last attempt to register that was not answered
}

func newNode(cfg Config, rec record, d dialer, clock func() instant) *node {
	return &node{
		cfg: cfg, log: cfg.Logger, id: rec.ID, dialer: d, clock: clock, rec: rec, ready: make(chan struct{}),
		leave: newDeparture(), commands: newCommands(), interval: core.DefaultHeartbeatInterval,
	}
}

// run wires what lives as long as the worker:
//
//	ctx, preemption, drain command -> departure
//	command stream -> commands -> executor, acknowledgement
//	half of the certificate's life -> renewal
//	life: one epoch after the other
func (w *node) run(ctx context.Context) error {
	hard, stop := context.WithCancelCause(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	defer group.Wait()
	defer stop(errLeft)
	defer context.AfterFunc(ctx, func() { w.leave.request("the process was told to stop", 0) })()
	group.Go(func() { w.watchStop(hard, stop) })
	group.Go(func() { w.watchPreemption(hard) })
	group.Go(func() { w.carryOutCommands(hard) })
	group.Go(func() { w.dialer.keep(hard) })
	return w.life(hard)
}

func (w *node) watchStop(ctx context.Context, stop context.CancelCauseFunc) {
	select {
	case <-w.cfg.StopNow:
		stop(errStopNow)
	case <-ctx.Done():
	}
}

func (w *node) watchPreemption(ctx context.Context) {
	if w.cfg.Compute == nil {
		return
	}
	p, err := w.cfg.Compute.Preemption(ctx)
	switch {
	case err == nil:
		w.log.Warn("the machine is announced to go away", "source", p.Source, "reason", p.Reason, "at", p.At)
		w.leave.request("preemption: "+p.Reason, 0)
	case ctx.Err() == nil:
		w.log.Warn("preemption notices are not watched", "err", err)
	}
}

// life runs epochs until one ends the worker.
func (w *node) life(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, w.end(ctx)) }()
	w.pulse.within(w.cfg.HookTimeout)
	w.readInventory(ctx)
	for reason := "start"; ; reason = "fenced" {
		reg, err := w.join(ctx, reason)
		if err != nil {
			return w.verdict(ctx, err)
		}
		if err := w.runEpoch(ctx, reg); !errors.Is(err, errFenced) {
			return w.verdict(ctx, err)
		}
	}
}

// verdict turns the end of the last epoch into the result of Run.
func (w *node) verdict(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, errLeft):
		return nil
	case errors.Is(context.Cause(ctx), errStopNow):
		return core.Errorf("worker: run", core.CodeCanceled, "%w", errStopNow)
	}
	return err
}

// end releases the executor and the link, on every path out. The end of an epoch
// that left cleanly has shut the executor down already; the hook may be repeated.
func (w *node) end(ctx context.Context) error {
	var errs []error
	if w.started {
		limit := w.cfg.HookTimeout
		if ctx.Err() != nil {
			limit = min(limit, hookGrace)
		}
		w.pulse.within(limit + hookGrace)
		errs = append(errs, hook(context.WithoutCancel(ctx), "shutdown", limit, w.cfg.Executor.Shutdown))
	}
	if w.link != nil {
		errs = append(errs, w.link.Close())
	}
	return errors.Join(errs...)
}

// readInventory asks the machine once; what cannot be read in time is left out.
func (w *node) readInventory(ctx context.Context) {
	if w.cfg.Compute == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, w.cfg.HookTimeout)
	defer cancel()
	inv, err := w.cfg.Compute.Inventory(ctx)
	if err != nil {
		w.log.Warn("the machine's inventory could not be read", "err", err)
	}
	w.inventory = inv
}

// saveState keeps what the next start must know. A worker whose store fails goes on:
// the epoch is the coordinator's to give, and the next registration tells it again.
func (w *node) saveState(ctx context.Context, s core.WorkerState) {
	w.rec.State = s
	if err := w.rec.save(ctx, w.cfg.Store); err != nil && ctx.Err() == nil {
		w.log.Error("the worker's state could not be stored", "state", s, "err", err)
	}
}
