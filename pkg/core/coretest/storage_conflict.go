package coretest

import (
	"fmt"
	"strconv"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func storageConflictChecks() []StorageCheck {
	return []StorageCheck{
		rule("a commit fails with a conflict when a row that was read has changed", conflictRow),
		rule("a commit fails with a conflict when a row that was found absent is there", conflictAbsent),
		rule("a commit fails with a conflict when a range that was scanned has changed", conflictRange),
		rule("a commit does not conflict with changes to what it has not read", conflictNone),
		rule("changes that were never read do not conflict", conflictBlind),
		rule("a conflict carries the hint to retry at once, and stores nothing", conflictHint),
		rule("a transaction without changes validates its reads and returns the current revision", commitReads),
		rule("committed transactions are serializable: no lost update", serialUpdates),
		rule("committed transactions are serializable: no write skew", serialSkew),
	}
}

// race lets read look at the store in a transaction, makes change happen, and
// returns what the commit of the transaction then says.
func (p *probe) race(read func(tx core.Txn), change func()) error {
	tx := p.begin()
	read(tx)
	p.stage(tx, kitKey("result"), "x")
	change()
	_, err := tx.Commit(p.ctx)
	return err
}

func conflictRow(p *probe) {
	read := func(tx core.Txn) { p.get(tx, kitKey("a"), kitKey("b")) }
	for name, change := range map[string]func(){
		"was put":                 func() { p.put(kitKey("a"), "2") },
		"was put again, the same": func() { p.put(kitKey("b"), "1") },
		"was deleted":             func() { p.remove(kitKey("a")) },
		"was deleted and put": func() {
			p.remove(kitKey("b"))
			p.put(kitKey("b"), "1")
		},
	} {
		p.put(kitKey("a"), "1")
		p.put(kitKey("b"), "1")
		p.code(p.race(read, change), core.CodeConflict, "commit after a row that it read "+name)
		p.absent(p.store(), kitKey("result"))
	}
}

func conflictAbsent(p *probe) {
	read := func(tx core.Txn) { p.absent(tx, kitKey("a")) }
	p.code(p.race(read, func() { p.put(kitKey("a"), "1") }), core.CodeConflict, "commit after an absent row was put")
}

func conflictRange(p *probe) {
	p.put(kitKey("r", "b"), "1")
	p.put(kitKey("r", "d"), "1")
	for name, read := range map[string]func(tx core.Txn){
		"scan":            func(tx core.Txn) { p.scan(tx, kitKey("r"), core.ScanOptions{}) },
		"reverse scan":    func(tx core.Txn) { p.scan(tx, kitKey("r"), core.ScanOptions{Reverse: true}) },
		"iteration":       func(tx core.Txn) { p.iterate(tx, kitKey("r"), core.ScanOptions{}) },
		"scan to a limit": func(tx core.Txn) { p.scan(tx, kitKey("r"), core.ScanOptions{Limit: 2}) },
	} {
		for what, change := range map[string]func(){
			"was put":                         func() { p.put(kitKey("r", "b"), "2") },
			"was deleted":                     func() { p.remove(kitKey("r", "b")) },
			"was inserted between its rows":   func() { p.put(kitKey("r", "c"), "1") },
			"was inserted before its rows":    func() { p.put(kitKey("r", "a"), "1") },
			"was replaced by another, nearby": func() { p.remove(kitKey("r", "d")); p.put(kitKey("r", "cc"), "1") },
		} {
			p.remove(kitKey("r", "a"))
			p.remove(kitKey("r", "c"))
			p.remove(kitKey("r", "cc"))
			p.put(kitKey("r", "b"), "1")
			p.put(kitKey("r", "d"), "1")
			p.code(p.race(read, change), core.CodeConflict, "commit after a row of its "+name+" "+what)
		}
	}
	empty := func(tx core.Txn) { p.finds(tx, kitKey("e"), core.ScanOptions{}) }
	p.code(p.race(empty, func() { p.put(kitKey("e", "a"), "1") }), core.CodeConflict, "commit after a row appeared in an empty range")
	first := func(tx core.Txn) { p.scan(tx, core.NewKey("fresh"), core.ScanOptions{}) }
	p.code(p.race(first, func() { p.put(core.NewKey("fresh", "a"), "1") }), core.CodeConflict, "commit after a row appeared in an empty namespace")
}

func conflictNone(p *probe) {
	p.put(kitKey("r", "b"), "1")
	p.put(kitKey("s"), "1")
	err := p.race(func(tx core.Txn) {
		p.scan(tx, kitKey("r"), core.ScanOptions{})
		p.get(tx, kitKey("s"))
	}, func() {
		p.put(kitKey("q"), "1")
		p.put(kitKey("rr"), "1")
		p.put(kitKey("s", "child"), "1")
		p.put(kitKey("r", "b").InRun(core.RunID{1}), "1")
		p.put(core.NewKey("other", "r", "b"), "1")
		p.remove(kitKey("r", "never"))
	})
	p.must(err, "commit after changes elsewhere")
}

func conflictBlind(p *probe) {
	tx := p.begin()
	p.stage(tx, kitKey("a"), "mine")
	p.must(tx.Delete(kitKey("b")), "delete")
	p.holds(tx, kitKey("a"), "mine") // a read of one's own change is no read of the store
	p.put(kitKey("a"), "theirs")
	p.put(kitKey("b"), "theirs")
	p.commit(tx)
	p.holds(p.store(), kitKey("a"), "mine")
	p.absent(p.store(), kitKey("b"))
}

func conflictHint(p *probe) {
	before := p.put(kitKey("a"), "1")
	err := p.race(func(tx core.Txn) {
		p.get(tx, kitKey("a"))
		p.stage(tx, kitKey("b"), "x")
		p.must(tx.Delete(kitKey("a")), "delete")
	}, func() { p.put(kitKey("a"), "2") })
	p.code(err, core.CodeConflict, "commit")
	p.check(core.RetryOf(err).Kind == core.RetryNow, "the hint is %v, want to retry at once", core.RetryOf(err))
	p.finds(p.store(), kitKey(), core.ScanOptions{}, `["a"]=2`)
	p.check(p.store().Revision() == before+1, "a conflict moved the revision from %d to %d", before+1, p.store().Revision())
}

func commitReads(p *probe) {
	now := p.put(kitKey("a"), "1")
	tx := p.begin()
	p.get(tx, kitKey("a"), kitKey("b"))
	p.scan(tx, kitKey(), core.ScanOptions{})
	rev := p.commit(tx)
	p.check(rev == now && p.store().Revision() == now, "it returned %d, and the store is at %d, want %d", rev, p.store().Revision(), now)
	for name, read := range map[string]func(tx core.Txn){
		"row":   func(tx core.Txn) { p.get(tx, kitKey("a")) },
		"range": func(tx core.Txn) { p.scan(tx, kitKey(), core.ScanOptions{}) },
	} {
		tx = p.begin()
		read(tx)
		p.put(kitKey("a"), name)
		_, err := tx.Commit(p.ctx)
		p.code(err, core.CodeConflict, "commit without changes after its "+name+" has changed")
	}
}

func serialUpdates(p *probe) {
	const workers, each = 8, 25
	key := kitKey("counter")
	p.put(key, "0")
	meet := p.barrier(workers) // all have read the first value before one commits
	p.together(workers, func(int) error {
		for range each {
			_, err := core.Update(p.ctx, p.store(), func(tx core.Txn) error {
				e, err := core.Get(p.ctx, tx, key)
				if err != nil {
					return err
				}
				meet()
				n, err := strconv.Atoi(string(e.Value))
				if err != nil {
					return err
				}
				return tx.Put(key, strconv.AppendInt(nil, int64(n)+1, 10))
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	p.holds(p.store(), key, strconv.Itoa(workers*each))
}

// serialSkew lets pairs of transactions each remove one of two rows if both are
// there. In any serial order one row stays.
func serialSkew(p *probe) {
	for i := range 5 {
		a, b := kitKey(fmt.Sprint(i), "a"), kitKey(fmt.Sprint(i), "b")
		p.put(a, "1")
		p.put(b, "1")
		meet := p.barrier(2)
		p.together(2, func(n int) error {
			_, err := core.Update(p.ctx, p.store(), func(tx core.Txn) error {
				es, err := tx.Scan(p.ctx, kitKey(fmt.Sprint(i)), core.ScanOptions{})
				meet() // both have seen two rows before one commits
				if err != nil || len(es) < 2 {
					return err
				}
				return tx.Delete([]core.Key{a, b}[n])
			})
			return err
		})
		left := len(p.scan(p.store(), kitKey(fmt.Sprint(i)), core.ScanOptions{}))
		p.check(left == 1, "%d of two rows are left", left)
	}
}
