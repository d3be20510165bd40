package coordinator

import (
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// stuckAfter is how long ago the last round of the detection loop may be. A round is
// due every 250 ms at most; a loaded machine runs it late, a hung process never.
const stuckAfter = 10 * time.Second

// Alive returns nil while the loop that judges workers goes round. A round takes the
// lock of every beat, registration and verdict, so one that hangs is found too. The
// error is [core.CodeUnavailable]. It is meant for watchdogs, which ask from another
// goroutine every few seconds; it never waits.
func (c *Coordinator) Alive() error {
	last := c.lastRound.Load()
	if last == 0 {
		return core.Errorf("coordinator: alive", core.CodeUnavailable, "the detection loop has not begun")
	}
	if ago := c.now() - time.Duration(last); ago > stuckAfter {
		return core.Errorf("coordinator: alive", core.CodeUnavailable, "the detection loop went round %v ago for the last time", ago.Round(time.Millisecond))
	}
	return nil
}

// wentRound notes that the detection loop lives.
func (c *Coordinator) wentRound() { c.lastRound.Store(int64(max(c.now(), 1))) }
