package worker

import (
	"context"
	"log/slog"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// The range of protocol versions that this worker speaks.
const (
	ProtocolMin = 1
	ProtocolMax = 1
)

const (
	// leaveGrace is how long a worker that leaves tries to tell an unreachable
	// coordinator.
	leaveGrace = 3 * time.Second
	// attemptTimeout bounds one attempt to dial and register.
	attemptTimeout = 10 * time.Second
	// repeatWaiting is how often an unchanged reason to wait is logged again.
	repeatWaiting = 30 * time.Second
)

// join registers a new epoch. It waits as long as it takes. When the worker
// is to leave, one that holds no epoch gives up at once, another after a while, with
// errLeft.
func (w *node) join(ctx context.Context, reason string) (core.Registered, error) {
	limit := leaveGrace
	if reason == "start" {
		limit = 0
	}
	ctx, cancel := w.leave.bounded(ctx, limit)
	defer cancel()
	wait := backoff{last: w.interval / 2}
	say := waiting{log: w.log, addr: w.cfg.Addr}
	for {
		w.pulse.within(attemptTimeout + wait.last)
		before := w.unclear
		reg, err := w.attempt(ctx, reason)
		switch {
		case err == nil:
			w.unclear = before
			return reg, w.joined(ctx, reg)
		case ctx.Err() != nil:
			return core.Registered{}, w.gaveUp(reason)
		case w.hopeless(err):
			return core.Registered{}, err
		}
		say.waits(err)
		w.dropLink()
		if wait.sleep(ctx) != nil {
			return core.Registered{}, w.gaveUp(reason)
		}
	}
}

// attempt dials where there is no link and registers once.
func (w *node) attempt(ctx context.Context, reason string) (core.Registered, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if w.link == nil {
		l, err := w.dialer.dial(ctx)
		if err != nil {
			return core.Registered{}, err
		}
		w.link = l
	}
	w.unclear = time.Now() // until it is answered, however late it arrives
	reg, err := w.link.Register(ctx, core.Registration{
		ID: w.rec.ID, PrevEpoch: w.rec.Epoch, Version: w.cfg.Version,
		ProtocolMin: ProtocolMin, ProtocolMax: ProtocolMax,
		Inventory: w.inventory, Slots: w.cfg.Slots, RestartReason: reason,
	})
	if core.IsCode(err, core.CodeUnauthenticated) {
		err = core.Errorf("", core.CodeUnauthenticated, "%w; if the coordinator was set up anew, remove %s to enrol again", err, w.cfg.IdentityDir)
	}
	return reg, err
}

// lateArrival is how long after an attempt without an answer its request may still
// reach the coordinator, and end the epoch that a later attempt was given.
const lateArrival = 30 * time.Second

// joined keeps what the coordinator said.
func (w *node) joined(ctx context.Context, reg core.Registered) error {
	if vs := reg.Timing.Validate(); len(vs) > 0 {
		return core.Errorf("worker: register", core.CodeVersionMismatch, "the coordinator gives intervals that break the rules: %w", vs)
	}
	w.interval = reg.Timing.HeartbeatInterval
	w.rec.Run, w.rec.Epoch, w.rec.CoordinatorEpoch = reg.Run, reg.Epoch, reg.CoordinatorEpoch
	w.saveState(ctx, core.StateInit)
	w.commands.registered(reg.CommandSeq)
	return nil
}

// gaveUp is the end of a join whose context ended.
func (w *node) gaveUp(reason string) error {
	if w.leave.requested() && reason != "start" {
		w.log.Warn("leaving without telling the coordinator, which cannot be reached")
	}
	return errLeft
}

// hopeless reports whether waiting cannot help.
func (w *node) hopeless(err error) bool {
	switch {
	case w.dialer.stale(err):
		return false // its successor is on its way
	case core.IsCode(err, core.CodeFenced), refused(err):
		return true
	}
	return w.rec.Epoch == 0 && transport.IsUnresolved(err)
}

func (w *node) dropLink() {
	if w.link == nil {
		return
	}
	if err := w.link.Close(); err != nil {
		w.log.Debug("closing the link", "err", err)
	}
	w.link = nil
}

// waiting says what the worker waits for, once for each new reason and again after a
// while.
type waiting struct {
	log  *slog.Logger
	addr string
	last string
	at   time.Time
}

func (s *waiting) waits(err error) {
	reason := err.Error()
	if reason == s.last && time.Since(s.at) < repeatWaiting {
		return
	}
	s.last, s.at = reason, time.Now()
	s.log.Info("waiting for the coordinator", "addr", s.addr, "reason", reason)
}
