package worker

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoffBase is the first bound of a reconnect.
const backoffBase = 50 * time.Millisecond

// backoff waits between attempts: a random time below a bound that doubles from
// [backoffBase] to last.
type backoff struct {
	last  time.Duration
	bound time.Duration
}

// reset starts again from the first bound.
func (b *backoff) reset() { b.bound = 0 }

// next returns the next wait.
func (b *backoff) next() time.Duration {
	switch {
	case b.bound == 0:
		b.bound = backoffBase
	default:
		b.bound *= 2
	}
	b.bound = min(b.bound, max(b.last, time.Millisecond))
	return rand.N(b.bound)
}

// sleep waits and returns the context's error when that ends first.
func (b *backoff) sleep(ctx context.Context) error {
	return sleep(ctx, b.next())
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
