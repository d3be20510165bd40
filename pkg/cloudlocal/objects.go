package cloudlocal

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// ObjectsConfig configures an object store. Only Root is required.
type ObjectsConfig struct {
	Root      string        // directory of the store; made when missing. May be shared by processes of one machine
	Quota     int64         // most bytes of objects, without metas; 0: no limit
	FreeFloor int64         // bytes of the disk that a put leaves free; 0: none
	GCGrace   time.Duration // grace of a GC that is given a negative one; default 24 h
	Logger    *slog.Logger  // nil: slog.Default

	fs    fileSystem // stands for Root, in tests
	block int        // stands for defaultBlock, in tests
	bulk  int        // stands for bulkSyncs, in tests
}

// Validate returns every rule that the configuration breaks.
func (c ObjectsConfig) Validate() core.Violations {
	var vs core.Violations
	add := func(key, msg string) { vs = append(vs, core.Violation{Key: key, Msg: msg}) }
	if c.Root == "" && c.fs == nil {
		add("root", "is empty, name the directory of the object store")
	}
	if c.Quota < 0 {
		add("quota", "is negative, give a number of bytes or 0 for no limit")
	}
	if c.FreeFloor < 0 {
		add("free_floor", "is negative, give a number of bytes or 0 for none")
	}
	if c.GCGrace < 0 {
		add("gc_grace", "is negative, give a duration or 0 for 24h")
	}
	return vs
}

// Objects is a [core.ObjectStore] in one directory. The comment on the layout
// says what lies where, and what is synced when.
//
// After a sync has failed the store refuses every further change with
// [core.CodeBroken], because nobody knows what reached the disk; reads go on.
type Objects struct {
	cfg  ObjectsConfig
	fs   fileSystem
	log  *slog.Logger
	bulk int // see bulkSyncs
	room room

	broken  atomic.Pointer[core.Error] // the failed sync after which nothing is written
	calls   sync.WaitGroup             // calls that are running
	shards  [256]chan struct{}         // tokens of shard locks, see lockShard
	flights flights                    // ids that are being put
	tmp     sessions                   // where files on their way lie
	blocks  blockPool

	publishing atomic.Int32 // puts that are syncing

	mu         sync.Mutex
	closed     bool                 // guarded by mu
	known      [1 << 16 / 64]uint64 // guarded by mu: shards whose own names are durable
	knownOuter [1 << 8]bool         // guarded by mu: the same of the directories above them
}

var _ core.ObjectStore = (*Objects)(nil)

// OpenObjects opens the object store in cfg.Root and removes what puts of killed
// processes left on their way.
func OpenObjects(ctx context.Context, cfg ObjectsConfig) (*Objects, error) {
	const op = "objects: open"
	if err := cfg.Validate().Err(op); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap(op, core.CodeCanceled, err)
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.GCGrace == 0 {
		cfg.GCGrace = 24 * time.Hour
	}
	fsys := cfg.fs
	if fsys == nil {
		path, err := filepath.Abs(cfg.Root)
		if err != nil {
			return nil, fsError(op, err)
		}
		disk, err := openDisk(path)
		if err != nil {
			return nil, fsError(op, err)
		}
		if disk.openToOthers() {
			cfg.Logger.Warn("object store can be entered by other users", "root", path, "want", "0700")
		}
		fsys = disk
	}
	o := &Objects{cfg: cfg, fs: fsys, log: cfg.Logger, bulk: cmp.Or(cfg.bulk, bulkSyncs)}
	o.room = room{quota: cfg.Quota, floor: cfg.FreeFloor, fs: fsys, count: o.countBytes}
	o.tmp.fs = fsys
	o.blocks.size = cmp.Or(cfg.block, defaultBlock)
	for i := range o.shards {
		o.shards[i] = make(chan struct{}, 1)
	}
	o.flights.held = map[core.ContentID]chan struct{}{}
	if n, err := sweep(fsys); err != nil {
		o.log.Warn("object store could not be swept", "error", err)
	} else if n > 0 {
		o.log.Info("object store swept", "temporaries", n)
	}
	return o, nil
}

// Close waits for running calls and releases the directory. Open readers stay
// readable.
func (o *Objects) Close() error {
	o.mu.Lock()
	closed := o.closed
	o.closed = true
	o.mu.Unlock()
	o.calls.Wait()
	if closed {
		return nil
	}
	return fsError("objects: close", errors.Join(o.tmp.end(), o.fs.Close()))
}

// enter begins a call; the caller ends it with o.calls.Done.
func (o *Objects) enter(ctx context.Context, op string) error {
	if err := ctx.Err(); err != nil {
		return core.Wrap(op, core.CodeCanceled, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return core.Errorf(op, core.CodeClosed, "the object store is closed")
	}
	o.calls.Add(1)
	return nil
}

// enterToWrite is enter for a call that changes the store.
func (o *Objects) enterToWrite(ctx context.Context, op string) error {
	if e := o.broken.Load(); e != nil {
		return core.Errorf(op, core.CodeBroken, "a sync has failed, open the store again: %w", e)
	}
	return o.enter(ctx, op)
}

// breakDown records a failed sync. It returns err under CodeBroken.
func (o *Objects) breakDown(op string, err error) error {
	e := core.Errorf(op, core.CodeBroken, "sync: %w", err)
	o.broken.CompareAndSwap(nil, e)
	return e
}

// isKnown reports whether the names of a shard, and of the directory above it, are
// durable.
func (o *Objects) isKnown(shard int) (inner, outer bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.known[shard/64]&(1<<(shard%64)) != 0, o.knownOuter[shard>>8]
}

// setKnown notes that the names of a shard and of the directory above it are
// durable, or that one of them is gone.
func (o *Objects) setKnown(shard int, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.knownOuter[shard>>8] = known
	if known {
		o.known[shard/64] |= 1 << (shard % 64)
	} else {
		o.known[shard/64] &^= 1 << (shard % 64)
	}
}
