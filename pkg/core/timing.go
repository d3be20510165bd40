package core

import (
	"fmt"
	"time"
)

// Bounds of [Timing.HeartbeatInterval].
const (
	MinHeartbeatInterval = 10 * time.Millisecond
	MaxHeartbeatInterval = 10 * time.Minute
	// DefaultHeartbeatInterval is H where nothing is configured.
	DefaultHeartbeatInterval = 500 * time.Millisecond
)

// Timing is the set of intervals that detection and fencing stand on. H is
// HeartbeatInterval. A worker that dies right after a beat was received is
// declared failed when Failure has passed since that receipt, so detection takes
// at most Failure; a worker that hears nothing fences itself SelfFence after the
// send of its last acknowledged beat, which is never later than its receipt.
//
//	send --------- H ------- SelfFence ---- Failure ---- 2 H
//	               beat      worker stops   coordinator   the promise
//	                         acting         says failed
type Timing struct {
	HeartbeatInterval time.Duration // H: time between two beats
	SelfFence         time.Duration // from the send of the last acknowledged beat
	Failure           time.Duration // from the receipt of the last beat
	Skew              time.Duration // clock drift between both sides that SelfFence and Failure leave room for
}

// DefaultTiming returns the intervals for a heartbeat interval h: self-fence
// 1.5 h, failure 1.75 h, skew h/8.
func DefaultTiming(h time.Duration) Timing {
	return Timing{HeartbeatInterval: h, SelfFence: h + h/2, Failure: 2*h - h/4, Skew: h / 8}
}

// WithDefaults returns t with every zero field set from [DefaultTiming] of its
// interval, and the interval itself from [DefaultHeartbeatInterval].
func (t Timing) WithDefaults() Timing {
	if t.HeartbeatInterval == 0 {
		t.HeartbeatInterval = DefaultHeartbeatInterval
	}
	d := DefaultTiming(t.HeartbeatInterval)
	if t.SelfFence == 0 {
		t.SelfFence = d.SelfFence
	}
	if t.Failure == 0 {
		t.Failure = d.Failure
	}
	if t.Skew == 0 {
		t.Skew = d.Skew
	}
	return t
}

// Configuration keys of the intervals, as violations name them.
const (
	KeyHeartbeatInterval = "transport.heartbeat_interval"
	KeySelfFence         = "transport.worker_self_fence_timeout"
	KeyFailure           = "transport.coordinator_failure_timeout"
	KeySkew              = "transport.clock_skew_budget"
)

// Validate returns every broken rule at once, in the order
// 10 ms <= H <= 10 min; H < self-fence; self-fence + skew <= failure;
// 0 <= skew < 2 H. Violations name configuration keys and carry no file or line.
func (t Timing) Validate() Violations {
	var vs Violations
	add := func(key, format string, args ...any) {
		vs = append(vs, Violation{Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	h := t.HeartbeatInterval
	if h < MinHeartbeatInterval || h > MaxHeartbeatInterval {
		add(KeyHeartbeatInterval, "%v is outside %v to %v, choose a value inside", h, MinHeartbeatInterval, MaxHeartbeatInterval)
	}
	if t.SelfFence <= h {
		add(KeySelfFence, "%v must be longer than the heartbeat interval %v, or one late beat fences the worker", t.SelfFence, h)
	}
	// The subtraction avoids the overflow that SelfFence + Skew could have.
	if t.Failure < t.SelfFence || t.Failure-t.SelfFence < t.Skew {
		add(KeyFailure, "%v must be at least self-fence %v plus skew budget %v, or the coordinator acts before the worker has stopped", t.Failure, t.SelfFence, t.Skew)
	}
	if t.Skew < 0 || t.Skew >= 2*h {
		add(KeySkew, "%v must be at least 0 and below twice the heartbeat interval %v", t.Skew, h)
	}
	return vs
}

// Warnings returns what is allowed but breaks the promise of detection within
// 2 H, with the detection time that the intervals give.
func (t Timing) Warnings() Violations {
	if t.Failure < 2*t.HeartbeatInterval {
		return nil
	}
	return Violations{{Key: KeyFailure, Msg: fmt.Sprintf(
		"a dead worker is noticed only after %v, which is %.1f heartbeat intervals; below %v it would be noticed within two",
		t.Failure, float64(t.Failure)/float64(t.HeartbeatInterval), 2*t.HeartbeatInterval)}}
}
