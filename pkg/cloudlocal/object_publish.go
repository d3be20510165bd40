package cloudlocal

import (
	"context"
	"errors"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// syncers is the number of syncs in flight, over all puts. Syncs that run at the
// same time share what the disk does for each; more than these only queue up.
const syncers = 16

// bulkSyncs is the number of files or directories from which on the file system is
// asked to sync as a whole.
const bulkSyncs = 16

// temp is a file on its way.
type temp struct {
	name string    // empty when there is none, or no longer
	file writeFile // nil once closed
	want int64     // bytes that must have been written
	at   time.Time // when it was last written, once closed
}

// pending is an object on its way.
type pending struct {
	id      core.ContentID
	meta    objectMeta   // as this put would describe it
	blob    temp         // its bytes
	desc    temp         // its meta
	write   func() error // writes both temporaries; nil when they are written
	replace bool         // what lies under the id is damaged and to be replaced

	info   core.ObjectInfo // as stored, once admitted
	stored bool            // this put gave the object its name
	since  time.Time       // modification time of the bytes when it did
}

// publish is the one way in which anything gets a name in the store: temporaries
// are synced and closed, their lengths compared with what was hashed, renamed
// meta first, and the directories synced. After an error nothing of this call is
// left under a name.
func (o *Objects) publish(ctx context.Context, op string, ps []*pending) error {
	o.publishing.Add(1)
	defer o.publishing.Add(-1)
	if err := o.settle(op, ps); err != nil {
		return err
	}
	err := o.admitAll(ctx, op, ps)
	if err == nil {
		err = o.syncShards(op, ps)
	}
	if err != nil {
		o.withdraw(context.WithoutCancel(ctx), ps)
	}
	return err
}

// settle syncs and closes the temporaries of all objects, many at a time.
func (o *Objects) settle(op string, ps []*pending) error {
	var files []*temp
	for _, p := range ps {
		for _, t := range []*temp{&p.blob, &p.desc} {
			if t.file != nil {
				files = append(files, t)
			}
		}
	}
	synced := len(files) >= o.bulk && o.fs.SyncAll()
	if len(files) > 2 && !synced {
		for _, t := range files { // the first sync then finds all of them on their way
			t.file.StartSync(0, t.want)
		}
	}
	return each(o, files, func(t *temp) error { return o.settleOne(op, t, synced) })
}

// settleOne closes one temporary and compares its length with what was hashed.
func (o *Objects) settleOne(op string, t *temp, synced bool) error {
	if synced {
		return o.closeTemp(op, t)
	}
	if err := t.file.Sync(); err != nil {
		if isFull(err) { // nothing of this file is promised, so others can go on
			return fsError(op, err)
		}
		return o.breakDown(op, err)
	}
	return o.closeTemp(op, t)
}

func (o *Objects) closeTemp(op string, t *temp) error {
	info, err := t.file.Stat()
	if err == nil && info.size != t.want {
		return core.Errorf(op, core.CodeBroken, "%d bytes were written to %s, which has %d", t.want, t.name, info.size)
	}
	err = errors.Join(err, t.file.Close())
	t.file, t.at = nil, info.modTime
	return fsError(op, err)
}

func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func (o *Objects) admitAll(ctx context.Context, op string, ps []*pending) error {
	for _, p := range ps {
		err := o.admit(ctx, p)
		if errors.Is(err, errNoBytes) {
			// It was removed after it had been looked at.
			if err = p.write(); err == nil {
				if err := o.settle(op, []*pending{p}); err != nil {
					return err
				}
				err = o.admit(ctx, p)
			}
		}
		if err != nil {
			return fsError(op, err)
		}
	}
	return nil
}

// errNoBytes says that an object which was there is gone, so that its bytes are
// needed after all.
var errNoBytes = errors.New("the object is gone")

// admit gives p's temporaries their names, unless the object is there already:
// then it is made young again, so that no collection takes it from this caller.
func (o *Objects) admit(ctx context.Context, p *pending) error {
	lock, err := o.lockShard(ctx, p.id, true)
	if err != nil {
		return err
	}
	defer lock.release()
	st, stored, _, err := o.look(p.id)
	if err != nil {
		return err
	}
	if st == whole && !p.replace {
		p.info = stored.info(p.id)
		return o.fs.Touch(blobName(p.id), time.Now())
	}
	if p.blob.name == "" {
		return errNoBytes
	}
	if err := o.fs.Rename(p.desc.name, metaName(p.id)); err != nil {
		return err
	}
	p.desc.name = ""
	p.info = p.meta.info(p.id)
	if st == bare && !p.replace {
		return o.fs.Touch(blobName(p.id), time.Now())
	}
	return o.nameBlob(p, st)
}

func (o *Objects) nameBlob(p *pending, before state) error {
	if err := o.fs.Rename(p.blob.name, blobName(p.id)); err != nil {
		if before == absent { // a meta alone is no object, but it need not stay
			return errors.Join(err, o.fs.Remove(metaName(p.id)))
		}
		return err
	}
	p.blob.name, p.stored, p.since = "", true, p.blob.at
	return nil
}

// syncShards makes the names of all objects durable, and the bytes of those that
// were there already: who wrote them may not have synced them.
func (o *Objects) syncShards(op string, ps []*pending) error {
	dirs, shards := map[string]bool{}, map[int]bool{}
	var steps []func() error
	for _, p := range ps {
		if !p.stored {
			steps = append(steps, func() error { return o.syncBlob(op, p.id) })
		}
		shard := shardOf(p.id)
		dirs[shard] = true
		n := shardNumber(p.id)
		if inner, outer := o.isKnown(n); !inner {
			shards[n], dirs[shard[:2]] = true, true
			if !outer {
				dirs["."] = true
			}
		}
	}
	for dir := range dirs {
		steps = append(steps, func() error { return o.syncDir(op, dir) })
	}
	if len(steps) < o.bulk || !o.fs.SyncAll() {
		if err := each(o, steps, func(f func() error) error { return f() }); err != nil {
			return err
		}
	}
	for n := range shards {
		o.setKnown(n, true)
	}
	return nil
}

func (o *Objects) syncBlob(op string, id core.ContentID) error {
	f, err := o.fs.Open(blobName(id))
	if err != nil {
		return fsError(op, ignoreAbsent(err)) // somebody deleted it after it was put
	}
	if err := f.Sync(); err != nil {
		return errors.Join(o.breakDown(op, err), f.Close())
	}
	return fsError(op, f.Close())
}

func (o *Objects) syncDir(op, dir string) error {
	d, err := o.fs.OpenDir(dir)
	if err != nil {
		return fsError(op, err)
	}
	if err := d.Sync(); err != nil {
		return errors.Join(o.breakDown(op, err), d.Close())
	}
	return fsError(op, d.Close())
}

// withdraw takes back the names that a failed put has given, except where another
// put of the same bytes has been told that they are there. What cannot be taken
// back is a whole object that nobody was promised, and a collection removes it.
func (o *Objects) withdraw(ctx context.Context, ps []*pending) {
	for _, p := range ps {
		if !p.stored {
			continue
		}
		lock, err := o.lockShard(ctx, p.id, false)
		if err != nil {
			continue // see above
		}
		if info, err := o.fs.Stat(blobName(p.id)); err == nil && info.modTime.Equal(p.since) {
			if o.fs.Remove(blobName(p.id)) == nil {
				p.stored = false
				_ = o.fs.Remove(metaName(p.id)) // a meta alone is no object
			}
		}
		lock.release()
	}
}

// discard closes and removes the temporaries that got no name. One that resists
// goes with the session's directory, at the latest when a store is next opened.
func (o *Objects) discard(ps []*pending) {
	for _, p := range ps {
		if p == nil {
			continue
		}
		for _, t := range []*temp{&p.blob, &p.desc} {
			if t.file != nil {
				_ = t.file.Close() // its bytes are not wanted
			}
			if t.name != "" {
				_ = o.fs.Remove(t.name) // see above
			}
			*t = temp{}
		}
	}
}

// each calls f for all xs and returns the first error. A lone put makes several
// calls at a time; many at once have each other to share the disk with.
func each[T any](o *Objects, xs []T, f func(T) error) error {
	width := min(len(xs), syncers/max(1, int(o.publishing.Load())))
	if width <= 1 {
		for _, x := range xs {
			if err := f(x); err != nil {
				return err
			}
		}
		return nil
	}
	var g errgroup.Group
	g.SetLimit(width)
	for _, x := range xs {
		g.Go(func() error { return f(x) })
	}
	return g.Wait()
}
