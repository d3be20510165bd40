package coordinator

import (
	"time"

	"golang.org/x/sys/unix"
)

// suspendLeast is the shortest suspension worth telling; below it two readings of
// the clocks may differ by chance.
const suspendLeast = 100 * time.Millisecond

// suspendClock notices that the machine was suspended, which the monotonic clock
// does not count. It belongs to one goroutine.
type suspendClock struct {
	ahead time.Duration // boot time minus monotonic time at the last look
	ok    bool
}

// start takes the first reading.
func (s *suspendClock) start() { s.ahead, s.ok = bootAhead() }

// elapsed returns how long the machine was suspended since the last look.
func (s *suspendClock) elapsed() time.Duration {
	ahead, ok := bootAhead()
	d := ahead - s.ahead
	if !ok || !s.ok || d < suspendLeast {
		return 0
	}
	s.ahead = ahead
	return d
}

// bootAhead reads how far the clock that counts suspended time is ahead of the one
// that does not.
func bootAhead() (time.Duration, bool) {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return 0, false
	}
	return time.Duration(boot.Nano() - mono.Nano()), true
}
