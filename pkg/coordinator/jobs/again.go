package jobs

import (
	"context"
	"time"
)

// Pauses between the tries of what could not be stored, such as on a full disk.
const (
	againFirst = 100 * time.Millisecond
	againLast  = 10 * time.Second
)

// soon does what follows from a change that is durable already: now, or as soon as
// the store lets it.
func (b *Book) soon(ctx context.Context, j *job, what string, do func(context.Context, *job) error) {
	if err := do(ctx, j); err != nil {
		b.log.Warn("trying again to "+what, "job_id", j.id, "error", err)
		b.again(j, what, do)
	}
}

// again tries until it succeeds or the book is closed. The rows tell the next start
// what was left undone.
func (b *Book) again(j *job, what string, do func(context.Context, *job) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	b.wg.Go(func() {
		timer := time.NewTimer(againFirst)
		defer timer.Stop()
		for pause := againFirst; ; pause = min(2*pause, againLast) {
			select {
			case <-timer.C:
			case <-b.run.Done():
				return
			}
			err := do(b.run, j)
			if err == nil || b.run.Err() != nil {
				return
			}
			b.log.Warn("trying again to "+what, "job_id", j.id, "error", err)
			timer.Reset(2 * pause)
		}
	})
}
