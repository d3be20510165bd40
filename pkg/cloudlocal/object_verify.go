package cloudlocal

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Verify implements [core.ObjectStore]. An error that says nothing about an object
// itself ends it, with the results so far.
func (o *Objects) Verify(ctx context.Context, ids []core.ContentID, quarantine bool) ([]core.VerifyResult, error) {
	const op = "objects: verify"
	enter := o.enter
	if quarantine {
		enter = o.enterToWrite
	}
	if err := enter(ctx, op); err != nil {
		return nil, err
	}
	defer o.calls.Done()
	var out []core.VerifyResult
	visit := func(id core.ContentID, listed bool) error {
		r, err := o.verifyOne(ctx, op, id, quarantine)
		if r != nil && !(listed && core.IsCode(r.Err, core.CodeNotFound)) {
			out = append(out, *r)
		}
		return err
	}
	if len(ids) == 0 {
		err := o.walk(ctx, core.ContentID{}, func(id core.ContentID) (bool, error) { return true, visit(id, true) })
		return out, fsError(op, err)
	}
	for _, id := range ids {
		if err := ctx.Err(); err != nil {
			return out, core.Wrap(op, core.CodeCanceled, err)
		}
		if err := visit(id, false); err != nil {
			return out, err
		}
	}
	return out, nil
}

// verifyOne returns nil for an object that is as it should be.
func (o *Objects) verifyOne(ctx context.Context, op string, id core.ContentID, quarantine bool) (*core.VerifyResult, error) {
	seen, err := o.fs.Stat(blobName(id))
	if err != nil {
		err = openError(op, id, err)
	} else if err = o.hashStored(op, id); err == nil {
		_, err = o.describe(op, id)
	}
	switch core.CodeOf(err) {
	case core.CodeNotFound:
		return &core.VerifyResult{ID: id, Err: err}, nil
	case core.CodeCorrupt:
	default:
		return nil, err
	}
	r := &core.VerifyResult{ID: id, Err: err}
	if !quarantine {
		return r, nil
	}
	r.Quarantined, err = o.quarantine(ctx, op, id, seen)
	return r, fsError(op, err)
}

// quarantine moves an object's files out of reach, unless a put has replaced since
// they were seen what was damaged then.
func (o *Objects) quarantine(ctx context.Context, op string, id core.ContentID, seen fileInfo) (bool, error) {
	lock, err := o.lockShard(ctx, id, false)
	if err != nil {
		return false, ignoreAbsent(err)
	}
	defer lock.release()
	info, err := o.fs.Stat(blobName(id))
	if err != nil || info != seen {
		return false, ignoreAbsent(err)
	}
	if err := o.fs.Mkdir(quarantineDir); err != nil && !errors.Is(err, fs.ErrExist) {
		return false, err
	}
	to := fmt.Sprintf("%s/%s-%d", quarantineDir, id, time.Now().UnixMilli())
	if err := o.fs.Rename(blobName(id), to); err != nil {
		return false, err
	}
	if err := ignoreAbsent(o.fs.Rename(metaName(id), to+metaSuffix)); err != nil {
		return true, err
	}
	o.room.freed(info.size)
	return true, each(o, []string{quarantineDir, shardOf(id), "."}, func(dir string) error { return o.syncDir(op, dir) })
}
