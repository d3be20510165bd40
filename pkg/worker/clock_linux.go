package worker

import (
	"time"

	"golang.org/x/sys/unix"
)

// readClock reads both clocks.
func readClock() instant {
	now := instant{at: time.Now()}
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err == nil {
		now.boot = time.Duration(ts.Nano())
	}
	return now
}
