package coretest

import (
	"context"
	"fmt"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func storageCommitChecks() []StorageCheck {
	return []StorageCheck{
		rule("a new store is at revision 0", func(p *probe) {
			p.check(p.store().Revision() == 0, "it is at %d", p.store().Revision())
			tx := p.begin()
			p.check(p.commit(tx) == 0, "an empty transaction made a revision")
		}),
		rule("each commit has a revision higher than all before it, and the store is at the last one", commitRevisions),
		rule("revisions of concurrent commits are unique and ordered as the commits are", commitConcurrent),
		rule("removing a row that is not there changes nothing", commitNothing),
		rule("a commit is all or nothing for every reader", commitWhole),
		rule("a context that has ended stops an operation before it has any effect", commitCanceled),
		rule("a forgotten transaction, an unread iterator and an unread watcher block nobody", commitUnblocked),
		rule("Update runs again after a conflict and returns other errors as they are", commitUpdate),
	}
}

func commitRevisions(p *probe) {
	last := uint64(0)
	for i := range 20 {
		rev := p.put(kitKey(fmt.Sprint(i%3)), fmt.Sprint(i))
		p.check(rev > last, "revision %d follows %d", rev, last)
		p.check(p.store().Revision() == rev, "the store is at %d after a commit with %d", p.store().Revision(), rev)
		last = rev
	}
	rev := p.remove(kitKey("0"))
	p.check(rev > last, "a removal has revision %d after %d", rev, last)
}

func commitConcurrent(p *probe) {
	const writers, each = 16, 25
	var mu sync.Mutex
	seen := map[uint64]bool{}
	p.together(writers, func(i int) error {
		last := uint64(0)
		for n := range each {
			rev, err := core.PutBytes(p.ctx, p.store(), kitKey(fmt.Sprint(i)), fmt.Append(nil, n))
			if err != nil {
				return err
			}
			mu.Lock()
			again := seen[rev]
			seen[rev] = true
			mu.Unlock()
			if now := p.store().Revision(); again || rev <= last || now < rev {
				return fmt.Errorf("revision %d after %d, given out before: %v, store at %d", rev, last, again, now)
			}
			last = rev
		}
		return nil
	})
	for i := range writers {
		p.holds(p.store(), kitKey(fmt.Sprint(i)), fmt.Sprint(each-1))
	}
}

func commitNothing(p *probe) {
	before := p.put(kitKey("a"), "1")
	p.remove(kitKey("b"))
	p.check(p.store().Revision() == before, "it moved the revision from %d to %d", before, p.store().Revision())
	p.finds(p.store(), kitKey(), core.ScanOptions{}, `["a"]=1`)
}

func commitWhole(p *probe) {
	const rounds, width = 50, 20
	done := make(chan struct{})
	p.together(3, func(i int) error {
		if i == 0 {
			defer close(done)
			for n := range rounds {
				_, err := core.Update(p.ctx, p.store(), func(tx core.Txn) error {
					for k := range width {
						if err := tx.Put(kitKey(fmt.Sprintf("%02d", (n+k)%40)), fmt.Append(nil, n)); err != nil {
							return err
						}
						if err := tx.Delete(kitKey(fmt.Sprintf("%02d", (n+width+k)%40))); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					return err
				}
			}
			return nil
		}
		for {
			es, err := p.store().Scan(p.ctx, kitKey(), core.ScanOptions{})
			if err != nil {
				return err
			}
			for _, e := range es {
				if len(es) != width || string(e.Value) != string(es[0].Value) {
					return fmt.Errorf("a scan found %d rows of %d, with values %q and %q", len(es), width, es[0].Value, e.Value)
				}
			}
			select {
			case <-done:
				return nil
			default:
			}
		}
	})
}

func commitCanceled(p *probe) {
	p.put(kitKey("a"), "old")
	for want, deadline := range map[core.Code]bool{core.CodeCanceled: false, core.CodeDeadlineExceeded: true} {
		tx := p.begin()
		p.stage(tx, kitKey("a"), "new")
		ctx, cancel := ended(p.ctx, deadline)
		defer cancel()
		_, err := tx.Commit(ctx)
		p.code(err, want, "commit")
		_, err = p.store().GetMany(ctx, kitKey("a"))
		p.code(err, want, "get")
		_, err = p.store().Scan(ctx, kitKey(), core.ScanOptions{})
		p.code(err, want, "scan")
		_, err = p.store().Begin(ctx)
		p.code(err, want, "begin")
		_, err = p.store().Watch(ctx, kitKey(), 0)
		p.code(err, want, "watch")
		p.holds(p.store(), kitKey("a"), "old")
	}
}

func commitUnblocked(p *probe) {
	fill(p, 1200)
	forgotten := p.begin()
	p.get(forgotten, kitKey("0001"))
	p.stage(forgotten, kitKey("0001"), "forgotten")
	w := p.watch(kitKey(), 0)
	defer p.end(w)
	for _, err := range p.store().Iterate(p.ctx, kitKey(), core.ScanOptions{}) {
		p.must(err, "iterate")
		// In the middle of an iteration, with everything else open.
		for i := range 300 {
			p.put(kitKey(fmt.Sprintf("%04d", i)), "again")
		}
		break
	}
	_, err := forgotten.Commit(p.ctx)
	p.code(err, core.CodeConflict, "the forgotten transaction, much later")
}

func commitUpdate(p *probe) {
	key := kitKey("a")
	p.put(key, "1")
	runs := 0
	_, err := core.Update(p.ctx, p.store(), func(tx core.Txn) error {
		runs++
		p.get(tx, key)
		if runs < 3 {
			p.put(key, fmt.Sprint("theirs", runs))
		}
		return tx.Put(key, []byte("mine"))
	})
	p.must(err, "update")
	p.check(runs == 3, "it ran %d times", runs)
	p.holds(p.store(), key, "mine")
	mine := core.Errorf("kit", core.CodeFenced, "mine")
	_, err = core.Update(p.ctx, p.store(), func(tx core.Txn) error {
		p.stage(tx, key, "never")
		return mine
	})
	p.check(err == error(mine), "an error of the function came back as %v", err)
	p.holds(p.store(), key, "mine")
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	_, err = core.Update(ctx, p.store(), func(tx core.Txn) error {
		p.get(tx, key)
		p.put(key, "theirs")
		cancel()
		return tx.Put(key, []byte("never"))
	})
	p.code(err, core.CodeCanceled, "an update whose context ends while it meets conflicts")
}
