package storage

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/watchlog"
)

// Config says how to open a store. Only Path is required; zero values stand for
// the defaults in parentheses.
type Config struct {
	// Path of the file. It and its directory are made if they are missing, unless
	// ReadOnly is set.
	Path string
	// LockTimeout bounds the wait for another holder of the file (1 s). Negative:
	// one attempt.
	LockTimeout time.Duration
	// MaxBytes bounds the size of the file; commits beyond it are
	// [core.CodeExhausted]. A part of it, about a sixteenth, is kept for
	// transactions that only delete. 0: the disk is the bound; at least 1 MiB
	// otherwise.
	MaxBytes int64
	// ReadOnly opens an existing file without changing a byte of it, beside other
	// readers.
	ReadOnly bool
	// RepairMeta opens a file with one damaged meta page from the other one, with
	// a warning, and writes it again. Otherwise such a file is
	// [core.CodeCorrupt]. It has no effect with ReadOnly.
	RepairMeta bool
	// HistoryEvents and HistoryBytes bound the changes kept in memory for
	// watchers, whichever is reached first (10,000 and 8 MiB).
	HistoryEvents, HistoryBytes int
	// IdleCommit is how long after the last commit a store counts as idle and
	// writes its second meta page (100 ms).
	IdleCommit time.Duration
	// QueueDepth bounds the transactions that wait behind the one being committed
	// (4096). Further callers wait for a place.
	QueueDepth int
	// Logger receives what no caller is told (none).
	Logger *slog.Logger

	hooks hooks
}

// Defaults of [Config].
const (
	DefaultLockTimeout = time.Second
	DefaultIdleCommit  = 100 * time.Millisecond
	DefaultQueueDepth  = 4096

	minMaxBytes = 1 << 20
)

// Defaults returns c with its zero values filled in.
func (c Config) Defaults() Config {
	if c.LockTimeout == 0 {
		c.LockTimeout = DefaultLockTimeout
	}
	if c.HistoryEvents == 0 {
		c.HistoryEvents = watchlog.DefaultMaxEvents
	}
	if c.HistoryBytes == 0 {
		c.HistoryBytes = watchlog.DefaultMaxBytes
	}
	if c.IdleCommit == 0 {
		c.IdleCommit = DefaultIdleCommit
	}
	if c.QueueDepth == 0 {
		c.QueueDepth = DefaultQueueDepth
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate returns every violation at once, as a [core.CodeConfigInvalid] error
// with [core.Violations] behind it.
func (c Config) Validate() error {
	var vs core.Violations
	bad := func(key, format string, args ...any) {
		vs = append(vs, core.Violation{Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	if c.Path == "" {
		bad("Path", "is empty: name the file of the store")
	}
	if c.MaxBytes != 0 && c.MaxBytes < minMaxBytes {
		bad("MaxBytes", "is %d: give at least %d, or 0 for no bound", c.MaxBytes, minMaxBytes)
	}
	if c.HistoryEvents < 0 {
		bad("HistoryEvents", "is %d: give a positive number", c.HistoryEvents)
	}
	if c.HistoryBytes < 0 {
		bad("HistoryBytes", "is %d: give a positive number", c.HistoryBytes)
	}
	if c.IdleCommit < 0 {
		bad("IdleCommit", "is %v: give a positive duration", c.IdleCommit)
	}
	if c.QueueDepth < 0 {
		bad("QueueDepth", "is %d: give a positive number", c.QueueDepth)
	}
	return vs.Err("storage: open")
}

// allocBytes is the step by which a bounded file grows.
func (c Config) allocBytes() int64 { return min(c.MaxBytes/32, 16<<20) }

// putBytes bounds the file for transactions that put something. The rest is for
// those that only delete, which need fresh pages too.
func (c Config) putBytes() int64 { return c.MaxBytes - 2*c.allocBytes() }
