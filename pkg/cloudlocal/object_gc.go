package cloudlocal

import (
	"context"
	"errors"
	"io/fs"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// syncGroup is the number of shards whose removals are synced together.
const syncGroup = 64

// GC implements [core.ObjectStore]. The age of an object counts from the last put
// of its bytes. A negative grace means [ObjectsConfig.GCGrace]. Files that a store
// of another make left on their way, and metas without bytes, go once they are
// older than grace too; they are not counted.
func (o *Objects) GC(ctx context.Context, live func(core.ContentID) (bool, error), grace time.Duration) (core.GCResult, error) {
	const op = "objects: gc"
	if live == nil {
		return core.GCResult{}, core.Errorf(op, core.CodeInvalidArgument, "nothing says which objects are referenced")
	}
	if grace < 0 {
		grace = o.cfg.GCGrace
	}
	if err := o.enterToWrite(ctx, op); err != nil {
		return core.GCResult{}, err
	}
	defer o.calls.Done()
	c := &collection{o: o, live: live, before: time.Now().Add(-grace), dirty: dirtyShards{}}
	err := o.walkShards(ctx, core.ContentID{}, func(shard string, entries []fs.DirEntry) (bool, error) {
		return true, c.shard(ctx, op, shard, entries)
	})
	if err == nil {
		err = c.foreign()
	}
	return c.result, errors.Join(fsError(op, err), o.syncRemovals(op, c.dirty))
}

// collection is one run of GC.
type collection struct {
	o      *Objects
	live   func(core.ContentID) (bool, error)
	before time.Time // objects put later are kept
	dirty  dirtyShards
	result core.GCResult
}

func (c *collection) old(info fileInfo) bool { return !info.modTime.After(c.before) }

func (c *collection) shard(ctx context.Context, op, shard string, entries []fs.DirEntry) error {
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		name, suffix, _ := strings.Cut(e.Name(), ".")
		id, err := core.ParseContentID(name)
		if err != nil || shardOf(id) != shard {
			continue
		}
		switch "." + suffix {
		case ".":
			err = c.object(ctx, shard, id)
		case metaSuffix:
			err = c.orphan(ctx, id)
		case foreignTmp:
			err = c.leftover(shard + "/" + e.Name())
		}
		if err != nil {
			return err
		}
	}
	if len(c.dirty) < syncGroup {
		return nil
	}
	return c.o.syncRemovals(op, c.dirty)
}

func (c *collection) object(ctx context.Context, shard string, id core.ContentID) error {
	info, err := c.o.fs.Stat(blobName(id))
	if err != nil {
		return ignoreAbsent(err)
	}
	keep := !c.old(info)
	if !keep {
		if keep, err = c.live(id); err != nil {
			return core.WithOp("mark", err)
		}
	}
	if keep {
		c.result.Kept++
		return nil
	}
	gone, err := c.o.remove(ctx, id, c.old)
	switch {
	case err != nil:
		return err
	case gone == nil: // put again, or removed, since it was looked at
		c.result.Kept++
		return nil
	}
	c.o.room.freed(gone.size)
	c.result.Removed++
	c.result.Freed += gone.size
	c.dirty[shard] = true
	return nil
}

// orphan removes an old meta without bytes, which a put that was killed between
// its two names leaves.
func (c *collection) orphan(ctx context.Context, id core.ContentID) error {
	if _, err := c.o.fs.Stat(blobName(id)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	lock, err := c.o.lockShard(ctx, id, false)
	if err != nil {
		return ignoreAbsent(err)
	}
	defer lock.release()
	if _, err := c.o.fs.Stat(blobName(id)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return c.leftover(metaName(id))
}

func (c *collection) leftover(name string) error {
	info, err := c.o.fs.Stat(name)
	if err != nil || !info.regular || !c.old(info) {
		return ignoreAbsent(err)
	}
	return ignoreAbsent(c.o.fs.Remove(name))
}

// foreign removes old streams of a store of another make.
func (c *collection) foreign() error {
	entries, err := c.o.fs.ReadDir(foreignDir)
	if err != nil {
		return ignoreAbsent(err)
	}
	for _, e := range entries {
		if err := c.leftover(foreignDir + "/" + e.Name()); err != nil {
			return err
		}
	}
	return nil
}
