package coretest

import (
	"fmt"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func storageWatchChecks(o StorageOptions) []StorageCheck {
	return []StorageCheck{
		rule("a watch from 0 starts with the first commit after the call", watchNow),
		rule("a watch from a revision starts with that revision itself", watchFrom),
		rule("a watch from a revision still to come waits for it", watchFuture),
		rule("a watch delivers only what lies below its prefix", watchFilter),
		rule("a commit is delivered whole: its changes in key order, each key once", watchWhole),
		rule("a removal of a row that was there is a change without a value; of another it is none", watchDelete),
		rule("commits come in order, each once, none left out, while many write", watchComplete),
		rule("a commit is delivered only after it is visible to every reader", watchDurable),
		rule("a commit that failed is never delivered", watchFailed),
		rule("Next waits for the next commit", watchWaits),
		rule("when its context ends Next returns that error and the watcher stays usable", watchContext),
		rule("Progress + 1 is where a new watch resumes", watchProgress),
		rule("a watcher that falls behind the history is told compacted and is finished", func(p *probe) { watchSlow(p, o.HistoryEvents) }).needsHistory(),
		rule("a watch from before the history is compacted", func(p *probe) { watchOld(p, o.HistoryEvents) }).needsHistory(),
		rule("a watcher that keeps up is not bothered by the bound of the history", func(p *probe) { watchKeepsUp(p, o.HistoryEvents) }).needsHistory(),
		rule("closing a watcher ends a waiting Next", watchClose),
		rule("a watcher owns the changes it is handed, except their values", watchMemory),
	}
}

func (p *probe) watch(prefix core.Key, from uint64) core.Watcher {
	w, err := p.store().Watch(p.ctx, prefix, from)
	p.must(err, fmt.Sprintf("watch %s from %d", prefix, from))
	return w
}

func (p *probe) end(w core.Watcher) { p.must(w.Close(), "close a watcher") }

// next checks the revision of the next commit and returns its changes as
// "kind path=value".
func (p *probe) next(w core.Watcher, rev uint64) []string {
	c, err := w.Next(p.ctx)
	p.must(err, fmt.Sprintf("next, for revision %d", rev))
	p.check(c.Revision == rev, "revision %d was delivered, want %d", c.Revision, rev)
	return changes(c)
}

func changes(c core.Commit) []string {
	var out []string
	for _, ch := range c.Changes {
		kind := map[core.ChangeKind]string{core.ChangePut: "put", core.ChangeDelete: "delete"}[ch.Kind]
		out = append(out, fmt.Sprintf("%s %q=%s", kind, ch.Key.Path, ch.Value))
	}
	return out
}

func (p *probe) delivers(w core.Watcher, rev uint64, want ...string) {
	if got := p.next(w, rev); !slices.Equal(got, want) {
		p.failf("revision %d was delivered with %v, want %v", rev, got, want)
	}
}

func watchNow(p *probe) {
	p.put(kitKey("a"), "before")
	w := p.watch(kitKey(), 0)
	defer p.end(w)
	rev := p.put(kitKey("b"), "after")
	p.delivers(w, rev, `put ["b"]=after`)
}

func watchFrom(p *probe) {
	first := p.put(kitKey("a"), "1")
	second := p.put(kitKey("a"), "2")
	third := p.put(kitKey("b"), "3")
	w := p.watch(kitKey(), second)
	defer p.end(w)
	p.delivers(w, second, `put ["a"]=2`)
	p.delivers(w, third, `put ["b"]=3`)
	fourth := p.put(kitKey("a"), "4")
	p.delivers(w, fourth, `put ["a"]=4`)
	all := p.watch(kitKey(), first)
	defer p.end(all)
	for i, rev := range []uint64{first, second, third, fourth} {
		p.check(len(p.next(all, rev)) == 1, "commit %d came with another number of changes", i)
	}
}

func watchFuture(p *probe) {
	now := p.put(kitKey("a"), "1")
	w := p.watch(kitKey(), now+2)
	defer p.end(w)
	p.put(kitKey("a"), "2")
	rev := p.put(kitKey("a"), "3")
	p.check(rev == now+2, "revisions are not consecutive: %d is two commits after %d", rev, now)
	p.delivers(w, rev, `put ["a"]=3`)
}

func watchFilter(p *probe) {
	w := p.watch(kitKey("a"), 0)
	defer p.end(w)
	run := core.RunID{1}
	inRun := p.watch(kitKey("a").InRun(run), 0)
	defer p.end(inRun)
	p.put(kitKey("b"), "x")
	p.put(kitKey("ab"), "x")
	p.put(kitKey(), "x")
	p.put(core.NewKey("kit2", "a"), "x")
	two := p.put(kitKey("a", "1").InRun(run), "x")
	tx := p.begin()
	p.stage(tx, kitKey("a"), "1")
	p.stage(tx, kitKey("aa"), "1")
	p.stage(tx, kitKey("a", "x", "y"), "1")
	p.stage(tx, core.NewKey("kit2", "a"), "1")
	p.stage(tx, kitKey("a").InRun(run), "1")
	rev := p.commit(tx)
	p.delivers(w, rev, `put ["a"]=1`, `put ["a" "x" "y"]=1`)
	p.delivers(inRun, two, `put ["a" "1"]=x`)
	p.delivers(inRun, rev, `put ["a"]=1`)
}

func watchWhole(p *probe) {
	w := p.watch(kitKey(), 0)
	defer p.end(w)
	tx := p.begin()
	for _, s := range []string{"c", "a", "b", "a", "d", "\x00", "c"} {
		p.stage(tx, kitKey(s), "1")
	}
	p.stage(tx, kitKey("a"), "2")
	p.stage(tx, kitKey("a", "child"), "1")
	rev := p.commit(tx)
	p.delivers(w, rev, `put ["\x00"]=1`, `put ["a"]=2`, `put ["a" "child"]=1`, `put ["b"]=1`, `put ["c"]=1`, `put ["d"]=1`)
}

func watchDelete(p *probe) {
	p.put(kitKey("a"), "1")
	p.put(kitKey("b"), "1")
	w := p.watch(kitKey(), 0)
	defer p.end(w)
	p.remove(kitKey("never"))
	tx := p.begin()
	p.must(tx.Delete(kitKey("a")), "delete")
	p.must(tx.Delete(kitKey("never")), "delete")
	p.stage(tx, kitKey("c"), "1")
	p.must(tx.Delete(kitKey("c")), "delete")
	rev := p.commit(tx)
	c, err := w.Next(p.ctx)
	p.must(err, "next")
	p.check(c.Revision == rev && len(c.Changes) == 1, "revision %d with %v was delivered, want %d with one change", c.Revision, changes(c), rev)
	p.check(c.Changes[0].Kind == core.ChangeDelete && c.Changes[0].Value == nil && c.Changes[0].Key.Equal(kitKey("a")), "the change is %v", changes(c))
}

// watchComplete lets four writers work and follows them; each writer's own counter
// shows a gap, a repeat or a wrong order.
func watchComplete(p *probe) {
	const writers, each = 4, 40
	w := p.watch(kitKey(), 0)
	defer p.end(w)
	part := p.watch(kitKey("2"), 0)
	defer p.end(part)
	follow := func(w core.Watcher, commits int, only string) error {
		last, next := uint64(0), map[string]int{}
		for range commits {
			c, err := w.Next(p.ctx)
			if err != nil {
				return err
			}
			if c.Revision <= last || len(c.Changes) != 2 {
				return fmt.Errorf("revision %d with %d changes of 2 came after %d", c.Revision, len(c.Changes), last)
			}
			last = c.Revision
			id := c.Changes[0].Key.Path[0]
			if only != "" && id != only {
				return fmt.Errorf("a watch of %s was handed %v", only, changes(c))
			}
			if want := fmt.Sprint(next[id]); string(c.Changes[0].Value) != want || string(c.Changes[1].Value) != want {
				return fmt.Errorf("writer %s: %v was delivered where %s was due", id, changes(c), want)
			}
			next[id]++
		}
		return nil
	}
	commit := func(i, n int) error {
		_, err := core.Update(p.ctx, p.store(), func(tx core.Txn) error {
			if err := tx.Put(kitKey(fmt.Sprint(i), "a"), fmt.Append(nil, n)); err != nil {
				return err
			}
			return tx.Put(kitKey(fmt.Sprint(i), "b"), fmt.Append(nil, n))
		})
		return err
	}
	for i := range writers { // however they run later, others come before writer 2
		p.must(commit(i, 0), "commit")
	}
	p.together(writers+2, func(i int) error {
		switch i {
		case writers:
			return follow(w, writers*each, "")
		case writers + 1:
			return follow(part, each, "2")
		}
		for n := 1; n < each; n++ {
			if err := commit(i, n); err != nil {
				return err
			}
		}
		return nil
	})
}

func watchDurable(p *probe) {
	const rounds = 100
	w := p.watch(kitKey(), 0)
	defer p.end(w)
	p.together(2, func(i int) error {
		for n := range rounds {
			if i == 0 {
				if _, err := core.PutBytes(p.ctx, p.store(), kitKey("a"), fmt.Append(nil, n)); err != nil {
					return err
				}
				continue
			}
			c, err := w.Next(p.ctx)
			if err != nil {
				return err
			}
			if now := p.store().Revision(); now < c.Revision {
				return fmt.Errorf("revision %d was delivered while the store was at %d", c.Revision, now)
			}
			e, err := core.Get(p.ctx, p.store(), kitKey("a"))
			if err != nil || e.Revision < c.Revision {
				return fmt.Errorf("revision %d was delivered while the row was at %d (%v)", c.Revision, e.Revision, err)
			}
		}
		return nil
	})
}

func watchFailed(p *probe) {
	p.put(kitKey("a"), "1")
	w := p.watch(kitKey(), 0)
	defer p.end(w)
	err := p.race(func(tx core.Txn) { p.get(tx, kitKey("a")) }, func() { p.put(kitKey("a"), "2") })
	p.code(err, core.CodeConflict, "commit")
	tx := p.begin()
	p.stage(tx, kitKey("b"), "canceled")
	ctx, cancel := ended(p.ctx, false)
	defer cancel()
	_, err = tx.Commit(ctx)
	p.code(err, core.CodeCanceled, "commit")
	discarded := p.begin()
	p.stage(discarded, kitKey("c"), "discarded")
	discarded.Discard()
	rev := p.put(kitKey("end"), "x")
	p.check(slices.Equal(p.next(w, rev-1), []string{`put ["a"]=2`}), "the change that won was not delivered")
	p.delivers(w, rev, `put ["end"]=x`)
}

func watchWaits(p *probe) {
	w := p.watch(kitKey("a"), 0)
	defer p.end(w)
	for i := range 20 {
		p.together(2, func(n int) error {
			if n == 0 {
				c, err := w.Next(p.ctx)
				if err == nil && string(c.Changes[0].Value) != fmt.Sprint(i) {
					err = fmt.Errorf("%v was delivered in round %d", changes(c), i)
				}
				return err
			}
			if _, err := core.PutBytes(p.ctx, p.store(), kitKey("b"), nil); err != nil {
				return err
			}
			_, err := core.PutBytes(p.ctx, p.store(), kitKey("a"), fmt.Append(nil, i))
			return err
		})
	}
}
