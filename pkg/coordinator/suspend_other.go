//go:build !linux

package coordinator

import "time"

// suspendClock notices nothing where the system has no clock that tells suspended
// time apart.
type suspendClock struct{}

func (*suspendClock) start() {}

func (*suspendClock) elapsed() time.Duration { return 0 }
