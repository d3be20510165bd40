package coretest

import (
	"fmt"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func storageEndChecks() []StorageCheck {
	return []StorageCheck{
		rule("every call after Close fails as closed, and Close may be called again", endClosed),
		rule("Close ends all watchers", endWatchers),
		rule("Close waits for commits already submitted, and each caller knows what became of its own", endCommits).needsReopen(),
		rule("a commit that returned nil is there after a reopen, and nothing else", endDurable).needsReopen(),
		rule("revisions go on after a reopen", endRevisions).needsReopen(),
		rule("after a reopen the history is compacted", endHistory).needsReopen(),
	}
}

func (p *probe) reopen() { p.must(p.f.Reopen(), "reopen") }

func endClosed(p *probe) {
	p.put(kitKey("a"), "1")
	tx := p.begin()
	p.stage(tx, kitKey("a"), "2")
	s := p.store()
	p.must(s.Close(), "close")
	p.must(s.Close(), "close again")
	_, err := s.GetMany(p.ctx, kitKey("a"))
	p.code(err, core.CodeClosed, "get")
	_, err = s.Scan(p.ctx, kitKey(), core.ScanOptions{})
	p.code(err, core.CodeClosed, "scan")
	for _, err := range s.Iterate(p.ctx, kitKey(), core.ScanOptions{}) {
		p.code(err, core.CodeClosed, "iterate")
	}
	_, err = s.Begin(p.ctx)
	p.code(err, core.CodeClosed, "begin")
	_, err = s.Watch(p.ctx, kitKey(), 0)
	p.code(err, core.CodeClosed, "watch")
	_, err = tx.Commit(p.ctx)
	p.code(err, core.CodeClosed, "commit of a transaction begun before")
}

func endWatchers(p *probe) {
	waiting, idle := p.watch(kitKey(), 0), p.watch(kitKey("x"), 0)
	p.together(2, func(i int) error {
		if i == 0 {
			return p.store().Close()
		}
		_, err := waiting.Next(p.ctx)
		if !core.IsCode(err, core.CodeClosed) {
			return fmt.Errorf("a waiting next ended with %w", errOrNone(err))
		}
		return nil
	})
	_, err := idle.Next(p.ctx)
	p.code(err, core.CodeClosed, "next after the store was closed")
	p.end(waiting)
	p.end(idle)
}

func endCommits(p *probe) {
	const writers = 16
	s := p.store()
	acked := make([]int, writers) // each goroutine has its own
	begun := make(chan struct{}, writers)
	p.together(writers+1, func(i int) error {
		if i == writers {
			for range writers {
				select {
				case <-begun:
				case <-p.ctx.Done():
				}
			}
			return s.Close()
		}
		for n := 1; ; n++ {
			_, err := core.PutBytes(p.ctx, s, kitKey(fmt.Sprint(i)), fmt.Append(nil, n))
			if core.IsCode(err, core.CodeClosed) {
				return nil
			}
			if err != nil {
				return err
			}
			if acked[i] = n; n == 1 {
				begun <- struct{}{}
			}
		}
	})
	p.reopen()
	for i, n := range acked {
		p.holds(p.store(), kitKey(fmt.Sprint(i)), fmt.Sprint(n))
	}
}

func endDurable(p *probe) {
	run := core.RunID{7}
	tx := p.begin()
	for _, s := range awkward {
		p.stage(tx, kitKey(s), s)
		p.stage(tx, kitKey("run", s).InRun(run), s)
	}
	rev := p.commit(tx)
	p.put(kitKey("gone"), "x")
	p.remove(kitKey("gone"))
	conflict := p.race(func(tx core.Txn) { p.absent(tx, kitKey("gone")) }, func() {
		p.put(kitKey("gone"), "x")
		p.remove(kitKey("gone"))
		p.put(kitKey("gone"), "y")
	})
	p.code(conflict, core.CodeConflict, "commit")
	left := p.begin()
	p.stage(left, kitKey("left"), "never committed")
	want := p.scan(p.store(), kitKey(), core.ScanOptions{})
	inRun := p.scan(p.store(), kitKey().InRun(run), core.ScanOptions{})
	for range 2 {
		p.reopen()
		p.check(slices.Equal(rows(p.scan(p.store(), kitKey(), core.ScanOptions{})), rows(want)), "the rows without a run are others")
		p.check(slices.Equal(rows(p.scan(p.store(), kitKey().InRun(run), core.ScanOptions{})), rows(inRun)), "the rows of the run are others")
	}
	p.check(p.holds(p.store(), kitKey("a"), "a").Revision == rev, "a row's revision is another")
	p.absent(p.store(), kitKey("left"))
	p.absent(p.store(), kitKey("result"))
}

func endRevisions(p *probe) {
	last := p.put(kitKey("a"), "1")
	for i := range 3 {
		p.reopen()
		p.check(p.store().Revision() == last, "the store is at %d, want %d", p.store().Revision(), last)
		rev := p.put(kitKey("a"), fmt.Sprint(i))
		p.check(rev > last, "revision %d follows %d", rev, last)
		last = rev
	}
}

func endHistory(p *probe) {
	p.put(kitKey("a"), "1")
	last := p.put(kitKey("a"), "2")
	p.reopen()
	_, err := p.store().Watch(p.ctx, kitKey(), last)
	p.code(err, core.CodeCompacted, "watch from the last revision before the reopen")
	w := p.watch(kitKey(), last+1)
	defer p.end(w)
	rev := p.put(kitKey("a"), "3")
	p.delivers(w, rev, `put ["a"]=3`)
}
