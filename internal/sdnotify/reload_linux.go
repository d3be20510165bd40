package sdnotify

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Reloading is the state of a service that takes over a changed configuration; [Ready]
// ends it. The manager compares the moment with the one of its own request.
func Reloading() string {
	var now unix.Timespec
	// The clock is always there; a zero moment would only make the manager wait longer.
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000)
}
