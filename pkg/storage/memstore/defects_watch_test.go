package memstore_test

import (
	"context"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

func onWatch(watch func(s core.Storage, prefix core.Key, from uint64) (core.Key, uint64)) func(core.Storage) core.Storage {
	return func(s core.Storage) core.Storage {
		return &mutant{Storage: s, watch: func(prefix core.Key, from uint64) (core.Key, uint64) { return watch(s, prefix, from) }}
	}
}

const (
	watchFrom     = "a watch from a revision starts with that revision itself"
	watchNow      = "a watch from 0 starts with the first commit after the call"
	watchFilter   = "a watch delivers only what lies below its prefix"
	watchDelete   = "a removal of a row that was there is a change without a value; of another it is none"
	watchAll      = "commits come in order, each once, none left out, while many write"
	watchVisible  = "a commit is delivered only after it is visible to every reader"
	watchWaits    = "Next waits for the next commit"
	watchContext  = "when its context ends Next returns that error and the watcher stays usable"
	watchProgress = "Progress + 1 is where a new watch resumes"
	watchSlow     = "a watcher that falls behind the history is told compacted and is finished"
	watchOld      = "a watch from before the history is compacted"
	watchKeepsUp  = "a watcher that keeps up is not bothered by the bound of the history"
	watchClose    = "closing a watcher ends a waiting Next"
	watchOwned    = "a watcher owns the changes it is handed, except their values"
	watchFuture   = "a watch from a revision still to come waits for it"
	endClosed     = "every call after Close fails as closed, and Close may be called again"
	endWatchers   = "Close ends all watchers"
	endCommits    = "Close waits for commits already submitted, and each caller knows what became of its own"
	endRevisions  = "revisions go on after a reopen"
	endHistory    = "after a reopen the history is compacted"
)

// counting gives each watcher a count of the commits it was asked for.
func counting(next func(ctx context.Context, w core.Watcher, n int) (core.Commit, error)) func(core.Storage) core.Storage {
	return onWatcher(func(m *watchMutant) {
		n := 0
		m.next = func(ctx context.Context, w core.Watcher) (core.Commit, error) {
			n++
			return next(ctx, w, n)
		}
	})
}

func watchDefects() []defect {
	return []defect{
		{name: "from now is from the last", mutate: onWatch(func(s core.Storage, prefix core.Key, from uint64) (core.Key, uint64) {
			if from == 0 && s.Revision() == 1 && len(prefix.Path) == 0 {
				return prefix, 1
			}
			return prefix, from
		}), breaks: []string{watchNow, neverFailed}},
		{name: "from is exclusive", mutate: onWatch(func(s core.Storage, prefix core.Key, from uint64) (core.Key, uint64) {
			if from > 0 && from <= s.Revision() {
				from++
			}
			return prefix, from
		}), breaks: []string{watchFrom, watchOld, watchSlow, endHistory}},
		{name: "the future is now", mutate: onWatch(func(s core.Storage, prefix core.Key, from uint64) (core.Key, uint64) {
			return prefix, min(from, s.Revision()+1)
		}), breaks: []string{watchFuture}},
		{name: "prefix forgotten", mutate: onWatch(func(_ core.Storage, prefix core.Key, from uint64) (core.Key, uint64) {
			if prefix.Validate() == nil {
				prefix.Path = nil
			}
			return prefix, from
		}), breaks: []string{watchFilter, watchAll, watchWaits, watchProgress}},
		{name: "changes reversed", mutate: counting(func(ctx context.Context, w core.Watcher, _ int) (core.Commit, error) {
			c, err := w.Next(ctx)
			if len(c.Changes) > 2 {
				slices.Reverse(c.Changes)
			}
			return c, err
		}), breaks: []string{wholeCommit}},
		{name: "removal with a value", mutate: counting(func(ctx context.Context, w core.Watcher, _ int) (core.Commit, error) {
			c, err := w.Next(ctx)
			for i := range c.Changes {
				if c.Changes[i].Kind == core.ChangeDelete {
					c.Changes[i].Value = []byte{}
				}
			}
			return c, err
		}), breaks: []string{watchDelete}},
		{name: "told too early", mutate: func(s core.Storage) core.Storage {
			m := &mutant{Storage: s}
			m.watcher = func(w core.Watcher, err error) (core.Watcher, error) {
				// The last commit of the check: nothing follows that could hide it.
				m.revision = func(now uint64) uint64 {
					if now == 100 {
						return now - 1
					}
					return now
				}
				return w, err
			}
			return m
		}, breaks: []string{watchVisible}},
		{name: "commit left out", mutate: counting(func(ctx context.Context, w core.Watcher, n int) (core.Commit, error) {
			if n == 30 {
				if c, err := w.Next(ctx); err != nil {
					return c, err
				}
			}
			return w.Next(ctx)
		}), breaks: []string{watchAll, watchVisible, watchKeepsUp}},
		{name: "commit repeated", mutate: onWatcher(func(m *watchMutant) {
			n, last := 0, core.Commit{}
			m.next = func(ctx context.Context, w core.Watcher) (c core.Commit, err error) {
				if n++; n == 31 {
					return last, nil
				}
				last, err = w.Next(ctx)
				return last, err
			}
		}), breaks: []string{watchAll, watchKeepsUp}},
		{name: "Next gives up", mutate: counting(func(ctx context.Context, w core.Watcher, n int) (core.Commit, error) {
			if n == 15 {
				return core.Commit{}, core.Errorf("watch", core.CodeTransient, "nothing yet")
			}
			return w.Next(ctx)
		}), breaks: []string{watchWaits, watchAll, watchVisible, watchKeepsUp}},
		{name: "a context ends the watch", mutate: counting(func(ctx context.Context, w core.Watcher, _ int) (core.Commit, error) {
			c, err := w.Next(ctx)
			if core.IsCode(err, core.CodeCanceled) {
				if cerr := w.Close(); cerr != nil {
					return c, cerr
				}
			}
			return c, err
		}), breaks: []string{watchContext}},
		{name: "progress one ahead", mutate: onWatcher(func(m *watchMutant) {
			m.progress = func(now uint64) uint64 { return now + 1 }
		}), breaks: []string{watchProgress, watchSlow}},
		{name: "slow watcher skips", mutate: func(s core.Storage) core.Storage {
			return &mutant{Storage: s, watcher: func(w core.Watcher, err error) (core.Watcher, error) {
				if err != nil {
					return nil, err
				}
				m := &watchMutant{Watcher: w}
				m.next = func(ctx context.Context, w core.Watcher) (core.Commit, error) {
					c, err := w.Next(ctx)
					if !core.IsCode(err, core.CodeCompacted) {
						return c, err
					}
					if m.Watcher, err = s.Watch(ctx, core.NewKey("kit"), s.Revision()); err != nil {
						return c, err
					}
					return m.Watcher.Next(ctx)
				}
				return m, nil
			}}
		}, breaks: []string{watchSlow}},
		{name: "old watch starts now", mutate: onWatch(func(s core.Storage, prefix core.Key, from uint64) (core.Key, uint64) {
			if from == 1 && s.Revision() > kitHistory {
				return prefix, 0
			}
			return prefix, from
		}), breaks: []string{watchOld}},
		{name: "large commit not kept", mutate: counting(func(ctx context.Context, w core.Watcher, _ int) (core.Commit, error) {
			c, err := w.Next(ctx)
			if len(c.Changes) > kitHistory {
				return core.Commit{}, core.Errorf("watch", core.CodeCompacted, "too large")
			}
			return c, err
		}), breaks: []string{watchKeepsUp}},
		{name: "close does not end Next", mutate: onWatcher(func(m *watchMutant) {
			m.close = func() error { return nil }
		}), breaks: []string{watchClose}},
		{name: "changes shared", mutate: func(s core.Storage) core.Storage {
			kept := map[uint64]core.Commit{}
			return &mutant{Storage: s, watcher: func(w core.Watcher, err error) (core.Watcher, error) {
				if err != nil {
					return nil, err
				}
				return &watchMutant{Watcher: w, next: func(ctx context.Context, w core.Watcher) (core.Commit, error) {
					c, err := w.Next(ctx)
					if err == nil && c.Revision == 1 && s.Revision() == 1 {
						if k, ok := kept[1]; ok {
							return k, nil
						}
						kept[1] = c
					}
					return c, err
				}}, nil
			}}
		}, breaks: []string{watchOwned}},
	}
}

func endDefects() []defect {
	return []defect{
		{name: "close does nothing", mutate: func(s core.Storage) core.Storage {
			return &mutant{Storage: s, close: func() error { return nil }}
		}, breaks: []string{endClosed, endWatchers, endCommits}},
		{name: "nothing survives", reopen: func(s *memstore.Store) *memstore.Store {
			return memstore.New(memstore.Options{})
		}, breaks: []string{afterReopen, endCommits, endRevisions, endHistory}},
		{name: "revisions start again", reopen: func(s *memstore.Store) *memstore.Store {
			return memstore.Reopen(s, 1)
		}, breaks: []string{endRevisions, endHistory}},
	}
}
