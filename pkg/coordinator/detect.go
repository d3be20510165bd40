package coordinator

import (
	"context"
	"time"

	"github.com/rollout-substrate/rollout/pkg/coordinator/liveness"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// detect is the loop of liveness: one timer, set to the next moment at which a
// verdict can change or the loop must prove that it runs.
func (c *Coordinator) detect(ctx context.Context) error {
	defer c.plugEars()
	timer := time.NewTimer(0)
	defer timer.Stop()
	c.suspends.start()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			timer.Reset(c.tick())
			c.wentRound()
		}
	}
}

// plugEars makes broken connections mean nothing: they break because we stop.
func (c *Coordinator) plugEars() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deaf = true
}

// tick applies the passage of time and returns how long until the next tick.
func (c *Coordinator) tick() time.Duration {
	suspended := c.suspends.elapsed()
	r, next := c.tickMachine(suspended)
	if suspended > 0 {
		c.log.Warn("this machine was suspended, every worker gets a fresh window", "suspended", suspended)
	}
	switch {
	case r.Fresh:
		c.log.Warn("this process did not run for a while, every worker gets a fresh window", "stall", r.Stall)
	case r.Stall > 0:
		c.log.Debug("this process ran late, which is no worker's silence", "stall", r.Stall)
	}
	if r.Alarm != nil {
		c.log.Error("most workers failed at once, their work is returned slowly", "failed", r.Alarm.Failed, "of", r.Alarm.Workers)
	}
	return next
}

func (c *Coordinator) tickMachine(suspended time.Duration) (liveness.Report, time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now() // under the lock, so that it is not before a beat that was counted
	if suspended > 0 {
		c.machine.Stall(now, suspended)
	}
	r := c.machine.Tick(now)
	if r.Alarm != nil {
		c.alarm(r.Alarm)
	}
	for _, tr := range r.Transitions {
		c.apply(tr, now)
	}
	return r, c.machine.Next() - c.now()
}

// alarm queues the event of a mass failure. mu is held.
func (c *Coordinator) alarm(a *liveness.MassFailure) {
	ev := c.event(core.TopicMassFailure, core.LevelError, core.WorkerID{}, core.Attrs{
		"failed": a.Failed, "workers": a.Workers, "requeue_per_second": c.cfg.RequeueRate,
	})
	ev.Message = "more than half of the workers failed within one heartbeat interval: look at the network and at this machine first"
	c.writer.submit(&op{must: true, prepare: func(_ context.Context, b *batch) error {
		b.event(ev)
		return nil
	}})
}

// apply puts a transition into memory and queues its row and event. mu is held.
func (c *Coordinator) apply(tr liveness.Transition, now time.Duration) {
	w := c.workers[tr.Worker.ID]
	if !tr.Changed() || w == nil || w.epoch != tr.Worker.Epoch {
		return
	}
	w.liveness = tr.To
	if tr.To == core.LivenessFailed {
		c.endEpoch(w, fencedOver(tr.Worker, tr.To))
		w.announce()
	}
	at := c.wall()
	lastSeen := w.lastSeen
	c.writer.submit(&op{
		must:    true,
		prepare: func(ctx context.Context, b *batch) error { return c.prepareTransition(ctx, b, tr, at, now, lastSeen) },
		done: func(err error) {
			if err == nil && tr.To == core.LivenessFailed {
				c.mu.Lock()
				c.owe(tr.Held, owed{tr.Worker, true, "its worker failed"})
				c.mu.Unlock()
			}
		},
	})
}

// prepareTransition stages the row and the event of a transition. Nothing happens
// when the epoch has changed or ended in the store meanwhile.
func (c *Coordinator) prepareTransition(ctx context.Context, b *batch, tr liveness.Transition, at time.Time, now time.Duration, lastSeen time.Time) error {
	row, err := b.worker(ctx, tr.Worker.ID)
	if err != nil || row == nil || row.Epoch != tr.Worker.Epoch || row.over() {
		return err
	}
	row.Liveness, row.LastSeenAt = tr.To, lastSeen
	ev := c.event("", core.LevelInfo, tr.Worker.ID, core.Attrs{"epoch": tr.Worker.Epoch, "addr": row.Addr})
	ev.Time = at
	switch tr.To {
	case core.LivenessAlive:
		ev.Topic = core.TopicWorkerRecovered
		ev.Attrs["from"] = string(tr.From)
	case core.LivenessSuspect:
		ev.Topic, ev.Attrs["reason"] = core.TopicWorkerSuspect, tr.Reason
	case core.LivenessFailed:
		items := 0
		if c.work != nil && !tr.Held {
			items = c.work.Holding(tr.Worker)
		}
		c.owing(row, true, "its worker failed")
		ev.Topic, ev.Level = core.TopicWorkerFailed, core.LevelWarn
		ev.Attrs["due_at"] = eventTime(at.Add(tr.Due - now))
		ev.Attrs["last_seen_at"] = eventTime(lastSeen)
		ev.Attrs["silent_ms"] = (tr.At - tr.Seen).Milliseconds()
		ev.Attrs["requeued"] = items
		ev.Attrs["requeue_held"] = tr.Held
	}
	b.event(ev)
	return b.put(workerKey(tr.Worker.ID), row)
}
