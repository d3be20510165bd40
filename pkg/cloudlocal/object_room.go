package cloudlocal

import (
	"context"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// recountAfter is the age at which the count of stored bytes is taken again
// before a put is refused: other processes may have added or removed objects.
const recountAfter = 5 * time.Second

// room says how many bytes may still be put. What this process stores and
// removes is counted as it happens; what others do is seen at the next count.
type room struct {
	quota, floor int64
	fs           fileSystem
	count        func(context.Context) (int64, error) // bytes of all objects on disk

	mu       sync.Mutex
	counted  time.Time // guarded by mu: when stored was last counted; zero: never
	stored   int64     // guarded by mu: bytes of objects
	reserved int64     // guarded by mu: bytes of claims
}

// claim is room that one put has taken for bytes it has not stored yet.
type claim struct {
	r    *room
	held int64
}

// grow makes the claim at least total bytes wide. It is [core.CodeExhausted] when
// the quota or the disk has no room for them.
func (c *claim) grow(ctx context.Context, total int64) error {
	if total <= c.held {
		return nil
	}
	if err := c.r.take(ctx, total-c.held); err != nil {
		return err
	}
	c.held = total
	return nil
}

// end gives the claim back; stored bytes of it have become objects.
func (c *claim) end(stored int64) {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	c.r.reserved -= c.held
	c.r.stored += stored
	c.held = 0
}

func (r *room) take(ctx context.Context, n int64) error {
	const op = "objects: put"
	free, err := r.fs.Free()
	if err != nil {
		return fsError(op, err)
	}
	if n > free || free-n < r.floor {
		return core.Errorf(op, core.CodeExhausted, "%d bytes are free on the disk, %d are to be written and %d must stay free", free, n, r.floor)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.quota == 0 {
		r.reserved += n
		return nil
	}
	if r.counted.IsZero() || n > r.quota-r.stored-r.reserved && time.Since(r.counted) > recountAfter {
		// The lock is held over the walk: a put that is let in meanwhile could
		// pass the quota. Bytes that get their name during the walk count twice
		// until the next one, which refuses early and never late.
		stored, err := r.count(ctx)
		if err != nil {
			return fsError(op, err)
		}
		r.stored, r.counted = stored, time.Now()
	}
	if n > r.quota-r.stored-r.reserved {
		return core.Errorf(op, core.CodeExhausted, "the quota of %d bytes has no room for %d more: %d are stored and %d on their way", r.quota, n, r.stored, r.reserved)
	}
	r.reserved += n
	return nil
}

// freed notes that objects were removed.
func (r *room) freed(n int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stored = max(0, r.stored-n)
}

// countBytes sums up the bytes of all objects.
func (o *Objects) countBytes(ctx context.Context) (int64, error) {
	var sum int64
	err := o.walk(ctx, core.ContentID{}, func(id core.ContentID) (bool, error) {
		info, err := o.fs.Stat(blobName(id))
		if err == nil {
			sum += info.size
		}
		return true, ignoreAbsent(err)
	})
	return sum, err
}
