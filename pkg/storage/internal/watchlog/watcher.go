package watchlog

import (
	"context"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/keycode"
)

// watcher implements [core.Watcher] as a cursor into a Log.
type watcher struct {
	log    *Log
	ns     core.Namespace
	prefix string        // encoded
	wake   chan struct{} // one token when Publish or Close ends a wait

	// Guarded by log.mu.
	cursor uint64 // everything up to here is delivered
	closed bool
	lost   bool // fell out of the ring
}

var _ core.Watcher = (*watcher)(nil)

const opWatch = "storage: watch"

// Watch follows changes below prefix as [core.Storage] describes it.
func (l *Log) Watch(prefix core.Key, from uint64) (core.Watcher, error) {
	if err := prefix.Validate(); err != nil {
		return nil, core.WithOp(opWatch, err)
	}
	w := &watcher{log: l, ns: prefix.Namespace, prefix: string(keycode.Append(nil, prefix)), wake: make(chan struct{}, 1)}
	l.mu.RLock()
	defer l.mu.RUnlock()
	switch {
	case l.closed:
		return nil, errClosed()
	case from == 0:
		w.cursor = l.last
	case from <= l.floor():
		return nil, compacted(from, l.floor())
	default:
		w.cursor = from - 1
	}
	return w, nil
}

func errClosed() error {
	return core.Errorf(opWatch, core.CodeClosed, "the watch or its store is closed")
}

func compacted(from, floor uint64) error {
	return core.Errorf(opWatch, core.CodeCompacted, "revision %d is no longer in the history, which starts with %d: scan, then watch from the scanned revision + 1", from, floor+1)
}

// Next implements [core.Watcher].
func (w *watcher) Next(ctx context.Context) (core.Commit, error) {
	for {
		if err := ctx.Err(); err != nil {
			return core.Commit{}, core.Wrap(opWatch, core.CodeCanceled, err)
		}
		if c, done, err := w.step(); done {
			return c, err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			w.unpark()
			return core.Commit{}, core.Wrap(opWatch, core.CodeCanceled, context.Cause(ctx))
		}
	}
}

// step delivers the next commit, or an end, or parks the watcher.
func (w *watcher) step() (_ core.Commit, done bool, err error) {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case w.closed || l.closed:
		return core.Commit{}, true, errClosed()
	case w.lost || w.cursor < l.floor():
		w.lost = true
		return core.Commit{}, true, compacted(w.cursor+1, l.floor())
	}
	for w.cursor < l.last {
		c := &l.commits[l.index(w.cursor+1)]
		w.cursor++
		if n := w.matches(c.Changes); n > 0 {
			return w.copy(c, n), true, nil
		}
	}
	l.waiting[w] = struct{}{}
	return core.Commit{}, false, nil
}

// unpark takes back what step did when it parked the watcher.
func (w *watcher) unpark() {
	w.log.mu.Lock()
	defer w.log.mu.Unlock()
	if _, parked := w.log.waiting[w]; parked {
		delete(w.log.waiting, w)
		return
	}
	select {
	case <-w.wake:
	default:
	}
}

func (w *watcher) covers(c *Change) bool {
	return c.Key.Namespace == w.ns && strings.HasPrefix(c.Enc, w.prefix)
}

func (w *watcher) matches(changes []Change) int {
	n := 0
	for i := range changes {
		if w.covers(&changes[i]) {
			n++
		}
	}
	return n
}

// concerns reports whether one of commits that the watcher has still to see
// changes something below its prefix.
func (w *watcher) concerns(commits []Commit) bool {
	for i := range commits {
		if commits[i].Revision <= w.cursor {
			continue
		}
		for j := range commits[i].Changes {
			if w.covers(&commits[i].Changes[j]) {
				return true
			}
		}
	}
	return false
}

// copy returns the n matching changes of c. Values are shared, paths are not.
func (w *watcher) copy(c *Commit, n int) core.Commit {
	out := core.Commit{Revision: c.Revision, Changes: make([]core.Change, 0, n)}
	segments := 0
	for i := range c.Changes {
		segments += len(c.Changes[i].Key.Path)
	}
	paths := make([]string, 0, segments)
	for i := range c.Changes {
		ch := &c.Changes[i]
		if !w.covers(ch) {
			continue
		}
		at := len(paths)
		paths = append(paths, ch.Key.Path...)
		key := ch.Key
		key.Path = paths[at:len(paths):len(paths)]
		out.Changes = append(out.Changes, core.Change{Kind: ch.Kind, Key: key, Value: ch.Value})
	}
	return out
}

// Progress implements [core.Watcher].
func (w *watcher) Progress() uint64 {
	w.log.mu.RLock()
	defer w.log.mu.RUnlock()
	return w.cursor
}

// Close implements [core.Watcher].
func (w *watcher) Close() error {
	l := w.log
	l.mu.Lock()
	defer l.mu.Unlock()
	w.closed = true
	if _, parked := l.waiting[w]; parked {
		delete(l.waiting, w)
		w.wake <- struct{}{}
	}
	return nil
}
