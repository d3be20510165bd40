package coretest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func storageTxnChecks() []StorageCheck {
	return []StorageCheck{
		rule("staged changes are visible to the transaction's own reads at once", stagedVisible),
		rule("staged changes are invisible to all others until the commit", stagedHidden),
		rule("the last change staged for a key counts", stagedLast),
		rule("a scan in a transaction lays its changes over the rows, whatever the limit and the direction", stagedScan),
		rule("an iteration in a transaction lays its changes over the rows", stagedIterate),
		rule("a value that is too large is refused and leaves the transaction usable", valueTooLarge),
		rule("a transaction that holds too many bytes refuses more and stays usable", txnTooLarge),
		rule("a transaction is finished by Commit and by Discard", txnFinished),
	}
}

func stagedVisible(p *probe) {
	p.put(kitKey("a"), "old")
	p.put(kitKey("b"), "old")
	tx := p.begin()
	defer tx.Discard()
	p.stage(tx, kitKey("a"), "new")
	p.must(tx.Delete(kitKey("b")), "delete")
	p.stage(tx, kitKey("c"), "new")
	e := p.holds(tx, kitKey("a"), "new")
	p.check(e.Revision != 0, "a staged row does not exist")
	p.absent(tx, kitKey("b"))
	p.holds(tx, kitKey("c"), "new")
	p.finds(tx, kitKey(), core.ScanOptions{}, `["a"]=new`, `["c"]=new`)
}

func stagedHidden(p *probe) {
	p.put(kitKey("a"), "old")
	p.put(kitKey("b"), "old")
	tx := p.begin()
	p.stage(tx, kitKey("a"), "new")
	p.must(tx.Delete(kitKey("b")), "delete")
	p.stage(tx, kitKey("c"), "new")
	other := p.begin()
	for _, r := range []core.Reader{p.store(), other} {
		p.finds(r, kitKey(), core.ScanOptions{}, `["a"]=old`, `["b"]=old`)
		p.absent(r, kitKey("c"))
	}
	other.Discard()
	p.commit(tx)
	p.finds(p.store(), kitKey(), core.ScanOptions{}, `["a"]=new`, `["c"]=new`)
	tx = p.begin()
	p.stage(tx, kitKey("d"), "new")
	tx.Discard()
	p.absent(p.store(), kitKey("d"))
}

func stagedLast(p *probe) {
	p.put(kitKey("a"), "old")
	tx := p.begin()
	p.must(tx.Delete(kitKey("a")), "delete")
	p.stage(tx, kitKey("a"), "one")
	p.stage(tx, kitKey("a"), "two")
	p.stage(tx, kitKey("b"), "one")
	p.must(tx.Delete(kitKey("b")), "delete")
	for i := range 20 { // enough for an index, if there is one
		p.stage(tx, kitKey("n", fmt.Sprint(i)), "one")
	}
	for i := range 20 {
		p.stage(tx, kitKey("n", fmt.Sprint(i)), "two")
	}
	p.commit(tx)
	p.holds(p.store(), kitKey("a"), "two")
	p.absent(p.store(), kitKey("b"))
	for _, e := range p.scan(p.store(), kitKey("n"), core.ScanOptions{}) {
		p.check(string(e.Value) == "two", "%s holds %q", e.Key, e.Value)
	}
}

// stagedScan compares a transaction's view with that of the store after its
// commit, for every combination of options.
func stagedScan(p *probe) {
	keys := letters(p)
	tx := p.begin()
	for _, i := range []int{0, 2, 3, 6} {
		p.must(tx.Delete(keys[i]), "delete")
	}
	p.stage(tx, keys[1], "b")
	now := []core.Key{keys[1], keys[4], keys[5]}
	for _, s := range []string{"A", "aa", "cc", "z"} {
		k := kitKey("l", s)
		p.stage(tx, k, s)
		now = append(now, k)
	}
	slices.SortFunc(now, core.Key.Compare)
	afters := []*core.Key{nil}
	for _, k := range append(keys, now...) {
		afters = append(afters, &k)
	}
	for _, after := range afters {
		for limit := range len(now) + 2 {
			for _, reverse := range []bool{false, true} {
				o := core.ScanOptions{Limit: limit, After: after, Reverse: reverse}
				p.finds(tx, kitKey("l"), o, expect(now, o)...)
			}
		}
	}
	p.commit(tx)
	p.finds(p.store(), kitKey("l"), core.ScanOptions{}, expect(now, core.ScanOptions{})...)
}

func stagedIterate(p *probe) {
	fill(p, 1500)
	tx := p.begin()
	for i := range 1500 {
		switch {
		case i >= 300 && i < 1100: // longer than any piece
			p.must(tx.Delete(kitKey(fmt.Sprintf("%04d", i))), "delete")
		case i%50 == 0:
			p.stage(tx, kitKey(fmt.Sprintf("%04d", i), "child"), "staged")
		}
	}
	for _, reverse := range []bool{false, true} {
		o := core.ScanOptions{Reverse: reverse}
		got, want := rows(p.iterate(tx, kitKey(), o)), rows(p.scan(tx, kitKey(), o))
		p.check(len(want) == 714 && slices.Equal(got, want), "an iteration with %s found %d rows, a scan %d of 714, or others", describe(o), len(got), len(want))
	}
	p.commit(tx)
	p.check(len(p.scan(p.store(), kitKey(), core.ScanOptions{})) == 714, "the commit left another number of rows than the transaction saw")
}

func valueTooLarge(p *probe) {
	big := make([]byte, core.MaxValueLen+1)
	tx := p.begin()
	p.code(tx.Put(kitKey("a"), big), core.CodeTooLarge, "a put of too large a value")
	_, err := tx.CompareAndSwap(p.ctx, kitKey("a"), nil, big)
	p.code(err, core.CodeTooLarge, "a compare and swap to too large a value")
	p.stage(tx, kitKey("b"), "1")
	p.commit(tx)
	p.absent(p.store(), kitKey("a"))
	p.holds(p.store(), kitKey("b"), "1")
}

func txnTooLarge(p *probe) {
	big := bytes.Repeat([]byte("v"), core.MaxValueLen)
	tx := p.begin()
	defer tx.Discard()
	n := 0
	for ; n < core.MaxTxnBytes/core.MaxValueLen+1; n++ {
		if err := tx.Put(kitKey("big", fmt.Sprint(n)), big); err != nil {
			p.code(err, core.CodeTooLarge, "a put beyond the bytes of a transaction")
			break
		}
	}
	p.check(n == core.MaxTxnBytes/core.MaxValueLen-1, "a transaction took %d values of %d bytes", n, len(big))
	for i := range n {
		p.must(tx.Delete(kitKey("big", fmt.Sprint(i))), "delete")
	}
	p.stage(tx, kitKey("small"), "1")
	p.commit(tx)
	p.finds(p.store(), kitKey(), core.ScanOptions{}, `["small"]=1`)
}

func txnFinished(p *probe) {
	for _, end := range []string{"Commit", "Discard"} {
		tx := p.begin()
		p.stage(tx, kitKey("a"), end)
		if end == "Commit" {
			p.commit(tx)
		} else {
			tx.Discard()
		}
		p.code(tx.Put(kitKey("b"), nil), core.CodeClosed, "put after "+end)
		p.code(tx.Delete(kitKey("b")), core.CodeClosed, "delete after "+end)
		_, err := tx.GetMany(p.ctx, kitKey("a"))
		p.code(err, core.CodeClosed, "get after "+end)
		_, err = tx.Scan(p.ctx, kitKey(), core.ScanOptions{})
		p.code(err, core.CodeClosed, "scan after "+end)
		_, err = tx.CompareAndSwap(p.ctx, kitKey("b"), nil, []byte("x"))
		p.code(err, core.CodeClosed, "compare and swap after "+end)
		_, err = tx.Commit(p.ctx)
		p.code(err, core.CodeClosed, "commit after "+end)
		tx.Discard()
		tx.Discard()
	}
	p.holds(p.store(), kitKey("a"), "Commit")
	p.absent(p.store(), kitKey("b"))
}

// ended returns a context that is over, by cancellation or by its deadline.
func ended(ctx context.Context, deadline bool) (context.Context, context.CancelFunc) {
	if deadline {
		return context.WithDeadline(ctx, time.Unix(1, 0))
	}
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	return ctx, cancel
}
