package worker

import (
	"context"
	"errors"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// live calls the executor's hooks in order, until the worker leaves or the epoch
// ends. It returns errLeft after a clean departure.
func (e *epoch) live(ctx context.Context) error {
	if !e.w.leave.requested() {
		if err := e.prepare(ctx); err != nil {
			return e.failed(ctx, err)
		}
	}
	select {
	case <-e.w.leave.asked:
		return e.depart(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// prepare goes from init to ready. A departure interrupts it.
func (e *epoch) prepare(ctx context.Context) error {
	ctx, cancel := e.w.leave.bounded(ctx, 0)
	defer cancel()
	e.w.started = true
	info := core.WorkerInfo{Ref: e.ref, Run: e.reg.Run, Timing: e.timing, Slots: e.w.cfg.Slots}
	err := hook(ctx, "init", e.w.cfg.InitTimeout, func(ctx context.Context) error { return e.w.cfg.Executor.Init(ctx, info) })
	if err != nil {
		return err
	}
	e.setState(core.StateReady)
	select {
	case <-e.ready:
	case <-ctx.Done():
		return nil
	}
	if err := e.act(); err != nil {
		return err
	}
	if err := hook(ctx, "ready", e.w.cfg.HookTimeout, e.w.cfg.Executor.Ready); err != nil {
		return err
	}
	e.w.saveState(ctx, core.StateReady)
	e.log.Info("ready")
	close(e.working)
	e.w.readied.Do(func() { close(e.w.ready) })
	return nil
}

// failed is called with what a hook answered. An error that only tells of the end of
// the epoch, or of a departure, is none.
func (e *epoch) failed(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, errFenced):
		return err
	case e.w.leave.requested():
		return e.depart(ctx)
	}
	e.log.Error("the worker cannot start", "err", err)
	e.setState(core.StateFailed)
	e.w.saveState(ctx, core.StateFailed)
	e.deregister(ctx, core.StateFailed, err.Error())
	return err
}

// depart drains while the beats go on, and says goodbye. Only the end of the epoch
// interrupts it; what could not be finished is the coordinator's to give to others.
func (e *epoch) depart(ctx context.Context) error {
	at, reason, _ := e.w.leave.details()
	e.log.Info("draining", "reason", reason, "at_most", e.w.cfg.DrainTimeout)
	e.setState(core.StateDraining)
	e.w.saveState(ctx, core.StateDraining)
	left := max(e.w.cfg.DrainTimeout-time.Since(at), 0)
	if e.bench != nil {
		finish, cancel := context.WithTimeout(ctx, left)
		e.bench.drain(finish)
		cancel()
		left = max(e.w.cfg.DrainTimeout-time.Since(at), hookGrace)
	}
	if err := hook(ctx, "drain", left, e.w.cfg.Executor.Drain); err != nil && ctx.Err() == nil {
		e.log.Warn("the drain did not finish, what is left goes to other workers", "err", err)
	}
	if err := hook(ctx, "shutdown", e.w.cfg.HookTimeout, e.w.cfg.Executor.Shutdown); err != nil && ctx.Err() == nil {
		e.log.Warn("the executor did not shut down cleanly", "err", err)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, _, seq := e.w.leave.details(); seq != 0 {
		e.say(ctx, "acknowledge", func(ctx context.Context) error {
			return e.w.acknowledgeOnce(ctx, core.CommandResult{Seq: seq})
		})
	}
	e.deregister(ctx, core.StateDone, reason)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e.w.saveState(ctx, core.StateDone)
	e.log.Info("left")
	return errLeft
}

// deregister ends the epoch at the coordinator, if it can be reached in time.
func (e *epoch) deregister(ctx context.Context, final core.WorkerState, reason string) {
	e.mu.Lock()
	e.leaving = true
	e.mu.Unlock()
	e.say(ctx, "deregister", func(ctx context.Context) error {
		return e.link.Deregister(ctx, e.ref, final, reason)
	})
}

// say repeats a last word until it is heard, refused, or leaveGrace is over.
func (e *epoch) say(ctx context.Context, what string, call func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, leaveGrace)
	defer cancel()
	wait := backoff{last: e.timing.HeartbeatInterval / 2}
	for {
		err := call(ctx)
		if err == nil {
			return
		}
		if refused(err) || core.IsCode(err, core.CodeFenced) || core.IsCode(err, core.CodeNotFound) || wait.sleep(ctx) != nil {
			if context.Cause(e.ctx) == nil {
				e.log.Warn("the coordinator was not told", "what", what, "err", err)
			}
			return
		}
	}
}
