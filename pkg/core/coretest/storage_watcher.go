package coretest

import (
	"context"
	"fmt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func watchContext(p *probe) {
	w := p.watch(kitKey(), 0)
	defer p.end(w)
	for want, deadline := range map[core.Code]bool{core.CodeCanceled: false, core.CodeDeadlineExceeded: true} {
		ctx, cancel := ended(p.ctx, deadline)
		defer cancel()
		_, err := w.Next(ctx)
		p.code(err, want, "next")
	}
	ctx, cancel := context.WithCancel(p.ctx)
	p.together(2, func(i int) error {
		if i == 0 {
			cancel()
			return nil
		}
		_, err := w.Next(ctx)
		if !core.IsCode(err, core.CodeCanceled) {
			return fmt.Errorf("next ended with %w", errOrNone(err))
		}
		return nil
	})
	rev := p.put(kitKey("a"), "1")
	p.delivers(w, rev, `put ["a"]=1`)
}

func watchProgress(p *probe) {
	start := p.put(kitKey("b"), "0")
	w := p.watch(kitKey("a"), 0)
	defer p.end(w)
	p.check(w.Progress() == start, "a new watch at revision %d says %d", start, w.Progress())
	p.put(kitKey("b"), "1")
	rev := p.put(kitKey("a"), "2")
	p.put(kitKey("b"), "3")
	last := p.put(kitKey("a"), "4")
	p.delivers(w, rev, `put ["a"]=2`)
	p.check(w.Progress() >= rev && w.Progress() < last, "after revision %d was delivered and before %d was it says %d", rev, last, w.Progress())
	again := p.watch(kitKey("a"), w.Progress()+1)
	defer p.end(again)
	p.delivers(again, last, `put ["a"]=4`)
	p.check(again.Progress() >= last, "after revision %d was delivered it says %d", last, again.Progress())
}

// overrun makes more commits than the history holds and returns the last revision.
func overrun(p *probe, events int) (rev uint64) {
	for i := range events + 10 {
		rev = p.put(kitKey("a"), fmt.Sprint(i))
	}
	return rev
}

func watchSlow(p *probe, events int) {
	first := p.put(kitKey("a"), "first")
	w := p.watch(kitKey(), first)
	defer p.end(w)
	p.delivers(w, first, `put ["a"]=first`)
	last := overrun(p, events)
	for range 2 { // and again: it is finished
		_, err := w.Next(p.ctx)
		p.code(err, core.CodeCompacted, "next of a watcher that fell behind")
	}
	p.check(w.Progress() == first, "it lost the thread after %d and says %d", first, w.Progress())
	p.put(kitKey("b"), "more")
	again := p.watch(kitKey(), last+1)
	defer p.end(again)
	p.delivers(again, last+1, `put ["b"]=more`)
}

func watchOld(p *probe, events int) {
	last := overrun(p, events)
	_, err := p.store().Watch(p.ctx, kitKey(), 1)
	p.code(err, core.CodeCompacted, "watch from revision 1")
	w := p.watch(kitKey(), last)
	defer p.end(w)
	p.check(len(p.next(w, last)) == 1, "the last commit was not delivered")
}

func watchKeepsUp(p *probe, events int) {
	w := p.watch(kitKey("a"), 0)
	defer p.end(w)
	for i := range 3 * events {
		rev := p.put(kitKey("a"), fmt.Sprint(i))
		p.check(len(p.next(w, rev)) == 1, "commit %d was not delivered", i)
	}
	tx := p.begin() // one commit with more events than the whole history
	for i := range 2 * events {
		p.stage(tx, kitKey("a", fmt.Sprint(i)), "x")
	}
	rev := p.commit(tx)
	p.check(len(p.next(w, rev)) == 2*events, "a large commit was not delivered whole")
}

func watchClose(p *probe) {
	w := p.watch(kitKey(), 0)
	p.together(2, func(i int) error {
		if i == 0 {
			return w.Close()
		}
		_, err := w.Next(p.ctx)
		if !core.IsCode(err, core.CodeClosed) {
			return fmt.Errorf("next ended with %w", errOrNone(err))
		}
		return nil
	})
	_, err := w.Next(p.ctx)
	p.code(err, core.CodeClosed, "next after close")
	p.must(w.Close(), "a second close")
}

func watchMemory(p *probe) {
	one, two := p.watch(kitKey(), 0), p.watch(kitKey(), 0)
	defer p.end(one)
	defer p.end(two)
	rev := p.put(kitKey("a"), "1")
	c, err := one.Next(p.ctx)
	p.must(err, "next")
	c.Changes[0].Key.Path[0] = "spoilt"
	c.Changes[0].Kind = core.ChangeDelete
	p.delivers(two, rev, `put ["a"]=1`)
	p.finds(p.store(), kitKey(), core.ScanOptions{}, `["a"]=1`)
}
