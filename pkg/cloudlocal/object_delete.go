package cloudlocal

import (
	"context"
	"errors"
	"io/fs"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Delete implements [core.ObjectStore].
func (o *Objects) Delete(ctx context.Context, ids ...core.ContentID) error {
	const op = "objects: delete"
	if err := o.enterToWrite(ctx, op); err != nil {
		return err
	}
	defer o.calls.Done()
	dirty := dirtyShards{}
	for _, id := range ids {
		info, err := o.remove(ctx, id, nil)
		if err != nil {
			return errors.Join(fsError(op, err), o.syncRemovals(op, dirty))
		}
		if info != nil {
			o.room.freed(info.size)
			dirty[shardOf(id)] = true
		}
	}
	return o.syncRemovals(op, dirty)
}

// dirtyShards are the shards in which names were taken away.
type dirtyShards map[string]bool

// syncRemovals makes removals durable and empties the set.
func (o *Objects) syncRemovals(op string, dirty dirtyShards) error {
	dirs := make([]string, 0, len(dirty))
	for dir := range dirty {
		dirs = append(dirs, dir)
	}
	clear(dirty)
	slices.Sort(dirs)
	return each(o, dirs, func(dir string) error { return o.syncDir(op, dir) })
}

// remove takes away an object's names, bytes first, if may agrees to what it is
// shown under the shard's lock; a nil may always agrees. It returns what was
// removed, nil when there was nothing or may refused.
func (o *Objects) remove(ctx context.Context, id core.ContentID, may func(fileInfo) bool) (*fileInfo, error) {
	lock, err := o.lockShard(ctx, id, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer lock.release()
	info, err := o.fs.Stat(blobName(id))
	if err != nil {
		return nil, ignoreAbsent(err)
	}
	if may != nil && !may(info) {
		return nil, nil
	}
	if err := o.fs.Remove(blobName(id)); err != nil {
		return nil, err
	}
	return &info, ignoreAbsent(o.fs.Remove(metaName(id)))
}
