package worker

import (
	"context"
	"sync"
	"time"
)

// departure is the decision to leave. It is taken once.
type departure struct {
	asked chan struct{} // closed when it is taken

	// mu guards the fields below; nothing is called while it is held.
	mu     sync.Mutex
	taken  bool
	at     time.Time
	reason string
	seq    uint64 // the drain command to acknowledge at the end; 0: none
}

func newDeparture() *departure { return &departure{asked: make(chan struct{})} }

// request decides to leave. Later requests keep the first reason and time; the
// highest command is the one acknowledged, which acknowledges those before it.
func (d *departure) request(reason string, seq uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.seq = max(d.seq, seq)
	if d.taken {
		return
	}
	d.taken, d.at, d.reason = true, time.Now(), reason
	close(d.asked)
}

func (d *departure) requested() bool {
	select {
	case <-d.asked:
		return true
	default:
		return false
	}
}

// details is valid after asked is closed.
func (d *departure) details() (at time.Time, reason string, seq uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at, d.reason, d.seq
}

// bounded returns a context that ends limit after the departure was asked for, and
// with ctx.
func (d *departure) bounded(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-d.asked:
		case <-ctx.Done():
			return
		}
		at, _, _ := d.details()
		// Only the end of ctx can interrupt the sleep, and then nothing is left to do.
		if sleep(ctx, limit-time.Since(at)) == nil {
			cancel()
		}
	}()
	return ctx, cancel
}
