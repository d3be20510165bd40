package coordinator

import (
	"context"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// flushAtOnce is how many beats one change writes, so that a flush of 10,000
// workers lets registrations pass in between.
const flushAtOnce = 1000

// flushBeats writes the beats that came since the last flush.
func (c *Coordinator) flushBeats(ctx context.Context) error {
	dirty := c.takeDirty()
	for len(dirty) > 0 {
		chunk := dirty[:min(len(dirty), flushAtOnce)]
		err := c.writer.do(ctx, func(_ context.Context, b *batch) error { return c.prepareBeats(b, chunk) }, nil)
		if err != nil {
			c.putBack(dirty)
			return err
		}
		dirty = dirty[len(chunk):]
	}
	return nil
}

// takeDirty returns the workers whose beats are not written, sorted by id, because
// keys in order cost the store less.
func (c *Coordinator) takeDirty() []*worker {
	c.mu.Lock()
	dirty := c.dirty
	c.dirty = nil
	for _, w := range dirty {
		w.dirty = false
	}
	c.mu.Unlock()
	slices.SortFunc(dirty, func(a, b *worker) int { return slices.Compare(a.id[:], b.id[:]) })
	return dirty
}

func (c *Coordinator) putBack(ws []*worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, w := range ws {
		if !w.dirty {
			w.dirty = true
			c.dirty = append(c.dirty, w)
		}
	}
}

func (c *Coordinator) prepareBeats(b *batch, ws []*worker) error {
	rows := make([]beatRow, 0, len(ws))
	keys := make([]core.Key, 0, len(ws))
	c.mu.Lock()
	for _, w := range ws {
		if c.workers[w.id] == w && !w.over() {
			rows = append(rows, beatRow{Epoch: w.epoch, Seq: w.beatSeq, At: w.lastSeen.UTC().Round(0), SlotsBusy: w.slotsBusy, SkewMS: w.skew.Milliseconds()})
			keys = append(keys, beatKey(w.id))
		}
	}
	c.mu.Unlock()
	for i := range rows {
		if err := b.put(keys[i], rows[i]); err != nil {
			return err
		}
	}
	return nil
}
