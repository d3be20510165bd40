package coretest

import (
	"context"
	"fmt"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func storageScanChecks() []StorageCheck {
	return []StorageCheck{
		rule("a prefix covers itself and every key that continues its path with whole segments", scanPrefix),
		rule("there is no wildcard: a prefix covers only rows of its own namespace and run", scanRuns),
		rule("rows come in key order: segment by segment as bytes, a path before its extensions", scanOrder),
		rule("a scan returns at most limit rows", scanLimit),
		rule("a scan starts strictly behind after, which need not exist but must lie below the prefix", scanAfter),
		rule("a reverse scan goes from the last row to the first", scanReverse),
		rule("every combination of limit, after and reverse finds what its parts promise", scanMatrix),
		rule("an iteration sees each key at most once and in order while rows change", iterateChanging),
		rule("the first error of an iteration is its last element", iterateError),
		rule("an iteration can be left early and started again", iterateBreak),
		rule("an iteration is not bounded by memory: it reads ahead in pieces", iterateLong),
	}
}

func scanPrefix(p *probe) {
	for _, path := range [][]string{{}, {"a"}, {"a", "b"}, {"a", ""}, {"ab"}, {"a\x00"}, {"a\x01"}, {"b"}} {
		p.put(kitKey(path...), "v")
	}
	p.finds(p.store(), kitKey("a"), core.ScanOptions{}, `["a"]=v`, `["a" ""]=v`, `["a" "b"]=v`)
	p.finds(p.store(), kitKey("a", "b"), core.ScanOptions{}, `["a" "b"]=v`)
	p.finds(p.store(), kitKey("a", "c"), core.ScanOptions{})
	p.check(len(p.scan(p.store(), kitKey(), core.ScanOptions{})) == 8, "the prefix without a path does not cover all rows")
}

func scanRuns(p *probe) {
	one, two := core.RunID{1}, core.RunID{2}
	p.put(kitKey("a"), "none")
	p.put(kitKey("a").InRun(one), "one")
	p.put(kitKey("a").InRun(two), "two")
	p.put(core.NewKey("kit2", "a"), "other")
	p.finds(p.store(), kitKey(), core.ScanOptions{}, `["a"]=none`)
	p.finds(p.store(), kitKey().InRun(one), core.ScanOptions{}, `["a"]=one`)
	p.finds(p.store(), kitKey("a").InRun(two), core.ScanOptions{}, `["a"]=two`)
	p.finds(p.store(), kitKey().InRun(core.RunID{3}), core.ScanOptions{})
	es := p.scan(p.store(), kitKey().InRun(two), core.ScanOptions{})
	p.check(es[0].Key.Run == two && es[0].Key.Namespace == "kit", "the found key %s lost its run or namespace", es[0].Key)
	p.holds(p.store(), kitKey("a").InRun(one), "one")
}

// awkward are segments whose order is easy to get wrong, in their order as bytes.
var awkward = []string{"", "\x00", "\x00\x00", "\x00\x01", "\x00\xff", "\x01", "\x01\x01", "\x01\x02", "\x02", "a", "a\x00", "a\x00b", "a\x01", "aa", "b", "\x80", "é", "\xff", "\xff\x00", "\xff\xff"}

func scanOrder(p *probe) {
	var keys []core.Key
	for _, s := range awkward {
		keys = append(keys, kitKey(s), kitKey(s, ""), kitKey(s, "\x00"), kitKey(s, "z"))
	}
	tx := p.begin()
	for i := range keys {
		p.stage(tx, keys[(i*31)%len(keys)], "v") // 31 shares no factor with their number
	}
	p.commit(tx)
	slices.SortFunc(keys, core.Key.Compare)
	for _, got := range [][]core.Entry{p.scan(p.store(), kitKey(), core.ScanOptions{}), p.iterate(p.store(), kitKey(), core.ScanOptions{})} {
		p.check(len(got) == len(keys), "%d rows of %d were found", len(got), len(keys))
		for i := range got {
			p.check(got[i].Key.Equal(keys[i]), "row %d is %q, want %q", i, got[i].Key.Path, keys[i].Path)
		}
	}
}

// letters puts the rows a to g and returns their keys.
func letters(p *probe) []core.Key {
	var keys []core.Key
	tx := p.begin()
	for _, s := range []string{"a", "b", "c", "d", "e", "f", "g"} {
		keys = append(keys, kitKey("l", s))
		p.stage(tx, keys[len(keys)-1], s)
	}
	p.commit(tx)
	p.put(kitKey("k"), "before")
	p.put(kitKey("m"), "behind")
	return keys
}

func scanLimit(p *probe) {
	letters(p)
	p.finds(p.store(), kitKey("l"), core.ScanOptions{Limit: 2}, `["l" "a"]=a`, `["l" "b"]=b`)
	p.check(len(p.scan(p.store(), kitKey("l"), core.ScanOptions{Limit: 7})) == 7, "a limit of the number of rows lost some")
	p.check(len(p.scan(p.store(), kitKey("l"), core.ScanOptions{Limit: 100})) == 7, "a limit beyond the number of rows did not find them all")
	_, err := p.store().Scan(p.ctx, kitKey("l"), core.ScanOptions{Limit: -1})
	p.code(err, core.CodeInvalidArgument, "a negative limit")
}

func scanAfter(p *probe) {
	letters(p)
	at := func(path ...string) core.ScanOptions { k := kitKey(path...); return core.ScanOptions{After: &k} }
	p.finds(p.store(), kitKey("l"), at("l", "e"), `["l" "f"]=f`, `["l" "g"]=g`)
	p.finds(p.store(), kitKey("l"), at("l", "ee"), `["l" "f"]=f`, `["l" "g"]=g`)
	p.finds(p.store(), kitKey("l"), at("l", "f", "x"), `["l" "g"]=g`)
	p.finds(p.store(), kitKey("l"), at("l", "g"))
	for _, k := range []core.Key{kitKey("k"), kitKey("m"), kitKey(), kitKey("l", "a").InRun(core.RunID{1}), core.NewKey("kit2", "l", "a")} {
		_, err := p.store().Scan(p.ctx, kitKey("l"), core.ScanOptions{After: &k})
		p.code(err, core.CodeInvalidArgument, "after "+k.String()+", which does not lie below the prefix")
	}
}

func scanReverse(p *probe) {
	letters(p)
	p.finds(p.store(), kitKey("l"), core.ScanOptions{Reverse: true, Limit: 2}, `["l" "g"]=g`, `["l" "f"]=f`)
	all := rows(p.scan(p.store(), kitKey(), core.ScanOptions{}))
	slices.Reverse(all)
	p.finds(p.store(), kitKey(), core.ScanOptions{Reverse: true}, all...)
	run := core.RunID{}
	for i := range run {
		run[i] = 0xff
	}
	p.put(kitKey("last").InRun(run), "v") // nothing can lie behind this run
	p.finds(p.store(), kitKey().InRun(run), core.ScanOptions{Reverse: true}, `["last"]=v`)
}

func scanMatrix(p *probe) {
	keys := letters(p)
	afters := []*core.Key{nil}
	for i := range keys {
		between := keys[i].Child("x")
		afters = append(afters, &keys[i], &between)
	}
	prefix := kitKey("l")
	tx := p.begin() // a transaction with nothing staged is a reader like any other
	defer tx.Discard()
	for _, after := range afters {
		for limit := range len(keys) + 2 {
			for _, reverse := range []bool{false, true} {
				o := core.ScanOptions{Limit: limit, After: after, Reverse: reverse}
				want := expect(keys, o)
				p.finds(p.store(), prefix, o, want...)
				p.finds(tx, prefix, o, want...)
			}
		}
	}
}

// expect says what a scan over keys, whose values are their last segments, finds.
func expect(keys []core.Key, o core.ScanOptions) []string {
	keys = slices.Clone(keys)
	if o.Reverse {
		slices.Reverse(keys)
	}
	var out []string
	for _, k := range keys {
		if o.After != nil {
			if c := k.Compare(*o.After); c == 0 || (c > 0) == o.Reverse {
				continue
			}
		}
		if o.Limit > 0 && len(out) == o.Limit {
			break
		}
		out = append(out, fmt.Sprintf("%q=%s", k.Path, k.Path[len(k.Path)-1]))
	}
	return out
}

// fill puts n rows named by four digits.
func fill(p *probe, n int) {
	tx := p.begin()
	for i := range n {
		p.stage(tx, kitKey(fmt.Sprintf("%04d", i)), fmt.Sprint(i))
	}
	p.commit(tx)
}

func iterateChanging(p *probe) {
	fill(p, 1200)
	for _, reverse := range []bool{false, true} {
		var last *core.Key
		n := 0
		for e, err := range p.store().Iterate(p.ctx, kitKey(), core.ScanOptions{Reverse: reverse}) {
			p.must(err, "iterate")
			if last != nil {
				c := e.Key.Compare(*last)
				p.check(c != 0 && (c < 0) == reverse, "%q came after %q", e.Key.Path, last.Path)
			}
			last = &e.Key
			if n++; n%100 == 0 { // behind, here and ahead
				p.remove(e.Key)
				p.put(kitKey(e.Key.Path[0], "new"), "n")
				p.put(kitKey("0000", fmt.Sprint("x", n)), "n")
				p.put(kitKey("1199", fmt.Sprint("x", n)), "n")
			}
		}
		p.check(n >= 1100, "only %d rows were seen", n)
	}
}

func iterateError(p *probe) {
	fill(p, 1200)
	ctx, cancel := context.WithCancel(p.ctx)
	defer cancel()
	n, failed := 0, 0
	for _, err := range p.store().Iterate(ctx, kitKey(), core.ScanOptions{}) {
		p.check(failed == 0, "an element followed the error")
		if err != nil {
			p.code(err, core.CodeCanceled, "an iteration whose context ended")
			failed++
			continue
		}
		if n++; n == 10 {
			cancel()
		}
	}
	p.check(failed == 1 && n < 1200, "an iteration of %d rows went on over its context's end", n)
}

func iterateBreak(p *probe) {
	fill(p, 600)
	seq := p.store().Iterate(p.ctx, kitKey(), core.ScanOptions{})
	for range 2 {
		n := 0
		for e, err := range seq {
			p.must(err, "iterate")
			p.check(e.Key.Path[0] == fmt.Sprintf("%04d", n), "element %d is %q", n, e.Key.Path)
			if n++; n == 300 {
				break
			}
		}
	}
	p.put(kitKey("0000"), "still writable")
}

func iterateLong(p *probe) {
	fill(p, 1300)
	for _, o := range []core.ScanOptions{{}, {Reverse: true}, {Limit: 1299}, {Limit: 513}, {Limit: 512}} {
		got := p.iterate(p.store(), kitKey(), o)
		want := p.scan(p.store(), kitKey(), o)
		p.check(slices.Equal(rows(got), rows(want)), "an iteration with %s found %d rows, a scan %d, or others", describe(o), len(got), len(want))
	}
}
