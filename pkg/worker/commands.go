package worker

import (
	"context"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// commands are the orders that were seen and wait to be carried out. They outlive an
// epoch: what was seen in one is carried out once.
type commands struct {
	queue chan core.Command

	// mu guards the fields below; nothing is called while it is held.
	mu    sync.Mutex
	known bool
	seen  uint64 // the last command put into queue
	acked uint64 // the last command that the coordinator confirmed
}

// maxCommands is how many commands may wait; more wait in the coordinator.
const maxCommands = 64

func newCommands() *commands { return &commands{queue: make(chan core.Command, maxCommands)} }

// registered takes what the coordinator knows as acknowledged. A coordinator that
// knows less than it has confirmed was restored from a copy and counts from there.
func (c *commands) registered(acked uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known || acked > c.seen || acked < c.acked {
		c.seen, c.acked = acked, acked
	}
	c.known = true
}

func (c *commands) lastSeen() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen
}

func (c *commands) confirmed(seq uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.acked = max(c.acked, seq)
}

// take queues a command, unless it was seen before.
func (c *commands) take(ctx context.Context, cmd core.Command) error {
	if cmd.Seq <= c.lastSeen() {
		return nil
	}
	select {
	case c.queue <- cmd:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen = max(c.seen, cmd.Seq)
	return nil
}

// control keeps the command stream open until the epoch ends.
func (e *epoch) control(ctx context.Context) error {
	attempts := backoff{last: e.timing.HeartbeatInterval / 2}
	for ctx.Err() == nil {
		sub, cancel := context.WithCancel(ctx)
		err := e.link.Subscribe(sub, e.ref, e.w.commands.lastSeen(), func() {
			attempts.reset()
			e.controlOpen(cancel)
		}, func(cmd core.Command) error { return e.w.commands.take(sub, cmd) })
		e.controlClosed()
		cancel()
		if ctx.Err() != nil {
			break
		}
		if end := e.answered(err); end != nil {
			return end
		}
		e.log.Debug("the command stream broke", "err", err)
		e.beatNow() // finds out at once whether beats still get through
		if attempts.sleep(ctx) != nil {
			break
		}
	}
	return context.Cause(ctx)
}

// controlOpen is called once for each stream, by the goroutine of control.
func (e *epoch) controlOpen(cancel context.CancelFunc) {
	e.mu.Lock()
	e.reopen = cancel
	e.mu.Unlock()
	select {
	case <-e.opened:
	default:
		close(e.opened)
	}
	e.beatNow()
}

func (e *epoch) controlClosed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reopen = nil
}

// reopenControl ends the command stream that the worker believes open. One that is
// being opened is left alone.
func (e *epoch) reopenControl() {
	e.mu.Lock()
	cancel := e.reopen
	e.reopen = nil
	e.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

// carryOutCommands works off the queue, one command at a time.
func (w *node) carryOutCommands(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case cmd := <-w.commands.queue:
			w.log.Info("command", "seq", cmd.Seq, "kind", cmd.Kind, "reason", cmd.Reason)
			if cmd.Kind == core.CommandDrain {
				w.leave.request(drainReason(cmd), cmd.Seq) // acknowledged when it is done
				continue
			}
			res := core.CommandResult{Seq: cmd.Seq}
			if err := w.carryOut(ctx, cmd); err != nil {
				res.Code, res.Detail = core.CodeOf(err), err.Error()
				if res.Code == core.CodeUnknown {
					res.Code = core.CodeInternal // zero means done
				}
				w.log.Warn("command refused or failed", "seq", cmd.Seq, "kind", cmd.Kind, "err", err)
			}
			w.acknowledge(ctx, res)
		}
	}
}

func drainReason(cmd core.Command) string {
	if cmd.Reason == "" {
		return "drain ordered"
	}
	return "drain ordered: " + cmd.Reason
}

func (w *node) carryOut(ctx context.Context, cmd core.Command) error {
	switch cmd.Kind {
	case core.CommandCancel:
		if e := w.current.Load(); e != nil && e.bench != nil {
			e.bench.cancelJob(cmd.Job)
		}
		c, ok := w.cfg.Executor.(Canceler)
		if !ok {
			return nil // nothing runs here that could belong to the job
		}
		return hook(ctx, "cancel", w.cfg.HookTimeout, func(ctx context.Context) error { return c.Cancel(ctx, cmd.Job) })
	case core.CommandReload:
		r, ok := w.cfg.Executor.(Reloader)
		switch {
		case !w.cfg.HotReload:
			return core.Errorf("worker: reload", core.CodeFailedPrecondition, "the worker was started without --hot-reload")
		case !ok:
			return core.Errorf("worker: reload", core.CodeNotFound, "the worker has no plugin %q", cmd.Plugin)
		}
		err := hook(ctx, "reload", w.cfg.InitTimeout, func(ctx context.Context) error { return r.Reload(ctx, cmd.Plugin) })
		if e := w.current.Load(); e != nil && e.bench != nil {
			e.bench.tellPlugins()
		}
		return err
	}
	return core.Errorf("worker: command", core.CodeUnsupported, "this worker does not know the command %q", cmd.Kind)
}

// acknowledge tells the coordinator what became of a command, in whatever epoch the
// worker then is, until it is told or ctx ends.
func (w *node) acknowledge(ctx context.Context, res core.CommandResult) {
	wait := backoff{last: core.DefaultHeartbeatInterval}
	for {
		err := w.acknowledgeOnce(ctx, res)
		if err == nil {
			w.commands.confirmed(res.Seq)
			return
		}
		if refused(err) || core.IsCode(err, core.CodeNotFound) {
			w.log.Warn("a command could not be acknowledged", "seq", res.Seq, "err", err)
			return
		}
		if wait.sleep(ctx) != nil {
			return
		}
	}
}

func (w *node) acknowledgeOnce(ctx context.Context, res core.CommandResult) error {
	e := w.current.Load()
	if e == nil {
		return core.Errorf("worker: acknowledge", core.CodeUnavailable, "no epoch runs")
	}
	if err := e.act(); err != nil {
		return core.Errorf("worker: acknowledge", core.CodeUnavailable, "%w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	res.Worker = e.ref
	return e.link.Acknowledge(ctx, res)
}
