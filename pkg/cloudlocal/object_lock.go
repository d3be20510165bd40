package cloudlocal

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// flights lets one put of an id run at a time, so that equal bytes put by many at
// once are written once.
type flights struct {
	mu   sync.Mutex
	held map[core.ContentID]chan struct{} // guarded by mu; closed when the put is over
}

// begin waits until no other put of id runs. Callers that take several ids take
// them in ascending order.
func (f *flights) begin(ctx context.Context, id core.ContentID) error {
	for {
		f.mu.Lock()
		running, busy := f.held[id]
		if !busy {
			f.held[id] = make(chan struct{})
			f.mu.Unlock()
			return nil
		}
		f.mu.Unlock()
		select {
		case <-running:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (f *flights) end(id core.ContentID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(f.held[id])
	delete(f.held, id)
}

// shardLock is the right to give and take names in one shard. It is held for a
// few calls of the disk that wait for nothing, never over a sync.
type shardLock struct {
	dir   directory
	token chan struct{}
}

// release gives the right back. Closing a directory that was only locked has no
// failure that could matter.
func (l *shardLock) release() {
	_ = l.dir.Close() // see above
	<-l.token
}

// lockShard waits for the right to change the shard of id and, with create, makes
// its directories. Without, a missing shard is fs.ErrNotExist.
//
// Within the process a token is taken first, so that only other processes are
// polled for.
func (o *Objects) lockShard(ctx context.Context, id core.ContentID, create bool) (*shardLock, error) {
	token := o.shards[id[0]^id[1]]
	select {
	case token <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	dir, err := o.openShard(id, create)
	if err == nil {
		err = waitLock(ctx, dir)
		if err == nil {
			return &shardLock{dir, token}, nil
		}
		err = errors.Join(err, dir.Close())
	}
	<-token
	return nil, err
}

func (o *Objects) openShard(id core.ContentID, create bool) (directory, error) {
	shard, number := shardOf(id), shardNumber(id)
	if known, _ := o.isKnown(number); create && !known {
		return o.makeShard(shard)
	}
	dir, err := o.fs.OpenDir(shard)
	if errors.Is(err, fs.ErrNotExist) && create {
		o.setKnown(number, false)
		return o.makeShard(shard)
	}
	return dir, err
}

// makeShard makes what is missing of the two levels, the inner one first: mostly
// the outer one is there.
func (o *Objects) makeShard(shard string) (directory, error) {
	for _, name := range []string{shard, shard[:2], shard} {
		err := o.fs.Mkdir(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		if name == shard {
			break
		}
	}
	return o.fs.OpenDir(shard)
}

func waitLock(ctx context.Context, dir directory) error {
	for wait := 100 * time.Microsecond; ; wait = min(2*wait, 10*time.Millisecond) {
		free, err := dir.TryLock()
		if err != nil || free {
			return err
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}
