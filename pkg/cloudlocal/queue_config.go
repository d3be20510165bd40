package cloudlocal

import (
	"log/slog"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// QueueConfig configures a [Queue]. The zero value of every field but Storage is
// a usable default.
type QueueConfig struct {
	Storage core.Storage     // required; holds every row. Not closed by the queue
	Objects core.ObjectStore // payloads above InlineBytes; nil: every payload stays in Storage
	Logger  *slog.Logger     // nil: slog.Default

	InlineBytes int   // payload bytes kept in Storage; default 64 KiB
	Window      int   // ready items of one priority held in memory; default 32,768
	MaxHeld     int   // delayed and leased items held in memory, over all queues; default 1,000,000, about 200 bytes each
	MaxInFlight int64 // bytes of memory for items that are not durable yet, about 4 KiB and eight times its payload for each; default 256 MiB
	Reserve     int   // bytes of Storage kept for consumers, for when it is full; default 256 KiB
	Remember    int   // finished idempotency keys remembered for each queue; default 10,000

	MaxAttempts int           // of an item that names none; default 3
	MaxLosses   int           // of an item that names none; default 5
	RetryFloor  time.Duration // shortest delay after a failure that may be retried; default 100 ms
	RetryBase   time.Duration // first bound of the jitter where a hint names none; default 500 ms
	RetryMax    time.Duration // last bound of the jitter where a hint names none; default 30 s

	hooks queueHooks
}

// queueHooks are set by tests of this package alone, to plant a defect that a
// harness must find. The zero value changes nothing.
type queueHooks struct {
	trustLeases bool // a call on a leased item is accepted whoever holds the lease
	blindCommit bool // the transaction does not compare the lease that it finds
}

func (c QueueConfig) withDefaults() QueueConfig {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	defD := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.InlineBytes, 64<<10)
	def(&c.Window, 32<<10)
	def(&c.MaxHeld, 1_000_000)
	def(&c.Reserve, 256<<10)
	def(&c.Remember, 10_000)
	def(&c.MaxAttempts, 3)
	def(&c.MaxLosses, 5)
	defD(&c.RetryFloor, 100*time.Millisecond)
	defD(&c.RetryBase, 500*time.Millisecond)
	defD(&c.RetryMax, 30*time.Second)
	if c.MaxInFlight == 0 {
		c.MaxInFlight = 256 << 20
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Validate returns every setting that cannot work.
func (c QueueConfig) Validate() core.Violations {
	c = c.withDefaults()
	var vs core.Violations
	add := func(bad bool, key, msg string) {
		if bad {
			vs = append(vs, core.Violation{Key: key, Msg: msg})
		}
	}
	add(c.Storage == nil, "Storage", "is missing, give the store that holds the queues")
	add(c.InlineBytes < 0 || c.InlineBytes > core.MaxValueLen/2, "InlineBytes", "must be between 0 and half of a row's limit")
	add(c.Window < 16, "Window", "must be at least 16")
	add(c.MaxHeld < 1, "MaxHeld", "must be at least 1")
	add(c.MaxInFlight < 1, "MaxInFlight", "must be at least 1")
	add(c.Reserve < 0 || c.Reserve > core.MaxValueLen, "Reserve", "must be between 0 and a row's limit")
	add(c.Remember < 0, "Remember", "must not be negative")
	add(c.MaxAttempts < 1, "MaxAttempts", "must be at least 1")
	add(c.MaxLosses < 1, "MaxLosses", "must be at least 1")
	add(c.RetryFloor < 0 || c.RetryBase < c.RetryFloor || c.RetryMax < c.RetryBase, "RetryFloor", "must not be negative, and RetryFloor <= RetryBase <= RetryMax")
	return vs
}
