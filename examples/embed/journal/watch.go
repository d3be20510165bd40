package journal

import (
	"context"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// watcher implements [core.Watcher] as a cursor into the store's history.
type watcher struct {
	s      *Store
	prefix core.Key
	ended  chan struct{} // closed by Close
	end    sync.Once

	cursor uint64 // everything up to here is delivered; guarded by s.mu
	lost   bool   // fell out of the history; guarded by s.mu
}

const opWatch = "journal: watch"

// Watch implements [core.Storage].
func (s *Store) Watch(ctx context.Context, prefix core.Key, from uint64) (core.Watcher, error) {
	if err := prefix.Validate(); err != nil {
		return nil, core.WithOp(opWatch, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ready(ctx, opWatch); err != nil {
		return nil, err
	}
	w := &watcher{s: s, prefix: prefix.Child(), ended: make(chan struct{}), cursor: s.revision}
	if from > 0 {
		w.cursor = from - 1
	}
	if w.cursor < s.floor {
		return nil, compacted(from, s.floor)
	}
	return w, nil
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
		c, changed, err := w.step()
		if err != nil || len(c.Changes) > 0 {
			return c, err
		}
		select {
		case <-changed:
		case <-w.ended:
		case <-ctx.Done():
		}
	}
}

// step returns the next commit that concerns the watcher, or what to wait for.
func (w *watcher) step() (core.Commit, <-chan struct{}, error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	select {
	case <-w.ended:
		return core.Commit{}, nil, core.Errorf(opWatch, core.CodeClosed, "the watch is closed")
	default:
	}
	if w.s.closed {
		return core.Commit{}, nil, core.Errorf(opWatch, core.CodeClosed, "the store is closed")
	}
	if w.lost = w.lost || w.cursor < w.s.floor; w.lost {
		return core.Commit{}, nil, compacted(w.cursor+1, w.s.floor)
	}
	// Revisions have no gaps, so a cursor is a place in the history. One that waits for
	// a revision of the future stays where it is.
	for w.cursor < w.s.revision {
		c := w.s.history[w.cursor-w.s.floor]
		w.cursor++
		if out := w.below(c); len(out.Changes) > 0 {
			return out, nil, nil
		}
	}
	return core.Commit{}, w.s.changed, nil
}

// below returns what a commit changes below the prefix.
func (w *watcher) below(c core.Commit) core.Commit {
	out := core.Commit{Revision: c.Revision}
	for _, ch := range c.Changes {
		if w.prefix.Covers(ch.Key) {
			ch.Key = ch.Key.Child()
			out.Changes = append(out.Changes, ch)
		}
	}
	return out
}

// Progress implements [core.Watcher].
func (w *watcher) Progress() uint64 {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.cursor
}

// Close implements [core.Watcher].
func (w *watcher) Close() error {
	w.end.Do(func() { close(w.ended) })
	return nil
}
