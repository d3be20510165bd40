package coordinator

import (
	"context"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	skewBeats    = 3                // beats in a row beyond the budget before drift is reported
	skewPause    = 10 * time.Minute // between two reports of one coordinator once its burst is spent
	skewBurst    = 10               // reports at once
	skewReturned = 0.5              // of the budget: below it a worker's drift counts as over
)

// skewLimit bounds the reports of drift: when this machine's own clock jumps, every
// worker seems to drift.
type skewLimit struct {
	spent   int
	since   time.Duration // when the first of spent was reported
	skipped int           // drifts that were not reported since
}

// allow reports whether one more report may be made, and how many were skipped.
func (l *skewLimit) allow(now time.Duration) (skipped int, ok bool) {
	if now-l.since >= skewPause {
		l.spent = 0
	}
	if l.spent >= skewBurst {
		l.skipped++
		return 0, false
	}
	if l.spent == 0 {
		l.since = now
	}
	l.spent++
	skipped, l.skipped = l.skipped, 0
	return skipped, true
}

// noteSkew measures a worker's clock against ours, transit included, and reports
// drift beyond the budget once until it is over. It never decides anything. mu is held.
func (c *Coordinator) noteSkew(w *worker, sent, received time.Time) {
	if sent.IsZero() {
		return
	}
	// Round strips the monotonic readings: both are wall clocks.
	w.skew = sent.Round(0).Sub(received.Round(0))
	budget, abs := c.cfg.Timing.Skew, w.skew.Abs()
	switch {
	case budget <= 0:
		return
	case abs <= time.Duration(float64(budget)*skewReturned):
		w.skewed = 0
	case abs > budget && w.skewed < skewBeats:
		if w.skewed++; w.skewed == skewBeats {
			c.reportSkew(w)
		}
	}
}

// reportSkew queues the event of a drift. mu is held.
func (c *Coordinator) reportSkew(w *worker) {
	skipped, ok := c.skewReports.allow(c.now())
	if !ok {
		return
	}
	attrs := core.Attrs{"skew_ms": w.skew.Milliseconds(), "budget_ms": c.cfg.Timing.Skew.Milliseconds(), "epoch": w.epoch}
	if skipped > 0 {
		attrs["not_reported"] = skipped
	}
	ev := c.event(core.TopicClockSkew, core.LevelWarn, w.id, attrs)
	ev.Message = "the worker's clock is off; leases do not depend on it, certificates do"
	c.writer.submit(&op{prepare: func(_ context.Context, b *batch) error {
		b.event(ev)
		return nil
	}})
}
