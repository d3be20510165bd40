package liveness

import "time"

// massFloor is the number of failures below which nothing is a mass failure.
const massFloor = 10

// failures is how many workers failed at one time.
type failures struct {
	at time.Duration
	n  int
}

// brake notices that more than half of all workers fail within one interval.
type brake struct {
	interval time.Duration
	recent   []failures // within the last interval, oldest first
	sum      int        // of recent
	on       bool       // since the threshold was passed, until an interval without failures
}

// record adds n failures at now, with rest workers still watched, and returns an
// alarm when the brake goes on.
func (b *brake) record(now time.Duration, n, rest int) *MassFailure {
	for len(b.recent) > 0 && b.recent[0].at <= now-b.interval {
		b.sum -= b.recent[0].n
		b.recent = b.recent[1:]
	}
	if n > 0 {
		b.recent = append(b.recent, failures{at: now, n: n})
		b.sum += n
	}
	if b.sum == 0 {
		b.on, b.recent = false, nil
		return nil
	}
	if b.on || b.sum < massFloor || 2*b.sum <= b.sum+rest {
		return nil
	}
	b.on = true
	return &MassFailure{Failed: b.sum, Workers: b.sum + rest}
}

// shift moves the recorded failures by time that did not count.
func (b *brake) shift(d time.Duration) {
	for i := range b.recent {
		b.recent[i].at += d
	}
}
