package coretest

import (
	"fmt"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func storageReadChecks() []StorageCheck {
	return []StorageCheck{
		rule("GetMany returns one entry for each key, in the order of keys", getOrder),
		rule("absence is an entry that does not exist, not an error", getAbsent),
		rule("all entries of one GetMany are read from one committed state", getOneState),
		rule("an entry has the revision of the commit that wrote the row", getRevision),
		rule("an empty value is a value, not absence", getEmpty),
		rule("a key that is not valid is refused as invalid argument", invalidKeys),
		rule("a key of the longest allowed path and a value of the largest allowed size are kept", largest),
		rule("a store keeps no reference to what it was given", givenMemory),
		rule("a caller owns what it is handed back", returnedMemory),
	}
}

func getOrder(p *probe) {
	a, b, gone := kitKey("a"), kitKey("b"), kitKey("gone")
	p.put(b, "B")
	p.put(a, "A")
	keys := []core.Key{b, gone, a, b}
	es := p.get(p.store(), keys...)
	for i, want := range []string{"B", "", "A", "B"} {
		p.check(es[i].Key.Equal(keys[i]), "entry %d is of %s, want %s", i, es[i].Key, keys[i])
		p.check(string(es[i].Value) == want, "entry %d is %q, want %q", i, es[i].Value, want)
	}
	p.check(len(p.get(p.store())) == 0, "no keys gave entries")
}

func getAbsent(p *probe) {
	p.absent(p.store(), kitKey("a"))
	p.put(kitKey("a", "b"), "x")
	p.absent(p.store(), kitKey("a"))
	p.absent(p.store(), kitKey("a", "b", "c"))
	p.absent(p.store(), core.NewKey("other", "a", "b"))
	p.absent(p.store(), kitKey("a", "b").InRun(core.RunID{1}))
	_, err := core.Get(p.ctx, p.store(), kitKey("a"))
	p.code(err, core.CodeNotFound, "core.Get of no row")
}

// getOneState moves a pair of rows from value to value in single commits, as long
// as others look for a mixed pair.
func getOneState(p *probe) {
	a, b := kitKey("a"), kitKey("b")
	const readers, rounds = 2, 200
	left := make(chan struct{}, readers) // one token for each reader that is done
	p.together(1+readers, func(i int) error {
		if i > 0 {
			defer func() { left <- struct{}{} }()
		}
		for n := 0; i == 0 && len(left) < readers || i > 0 && n < rounds; n++ {
			if i == 0 {
				_, err := core.Update(p.ctx, p.store(), func(tx core.Txn) error {
					v := fmt.Appendf(nil, "%d", n)
					if err := tx.Put(a, v); err != nil {
						return err
					}
					return tx.Put(b, v)
				})
				if err != nil {
					return err
				}
				continue
			}
			es, err := p.store().GetMany(p.ctx, a, b)
			if err != nil {
				return err
			}
			if string(es[0].Value) != string(es[1].Value) || es[0].Revision != es[1].Revision {
				return fmt.Errorf("two rows that always change together were read as %q at %d and %q at %d", es[0].Value, es[0].Revision, es[1].Value, es[1].Revision)
			}
		}
		return nil
	})
}

func getRevision(p *probe) {
	one := p.put(kitKey("a"), "1")
	tx := p.begin()
	p.stage(tx, kitKey("b"), "2")
	p.stage(tx, kitKey("c"), "2")
	two := p.commit(tx)
	for path, want := range map[string]uint64{"a": one, "b": two, "c": two} {
		e := p.get(p.store(), kitKey(path))[0]
		p.check(e.Revision == want, "row %s has revision %d, the commit that wrote it returned %d", path, e.Revision, want)
	}
	for _, e := range p.scan(p.store(), kitKey(), core.ScanOptions{}) {
		p.check(e.Revision == p.get(p.store(), e.Key)[0].Revision, "a scan and a get disagree about the revision of %s", e.Key)
	}
}

func getEmpty(p *probe) {
	p.put(kitKey("a"), "")
	e := p.holds(p.store(), kitKey("a"), "")
	p.check(e.Value != nil, "an empty value came back as nil")
	es := p.scan(p.store(), kitKey(), core.ScanOptions{})
	p.check(len(es) == 1 && es[0].Value != nil, "a scan lost a row with an empty value, or made it nil")
}

func invalidKeys(p *probe) {
	long := make([]string, core.MaxKeySegments+1)
	for name, key := range map[string]core.Key{
		"no namespace":         {},
		"upper-case namespace": core.NewKey("Kit"),
		"too many segments":    kitKey(long...),
		"too long":             kitKey(strings.Repeat("x", core.MaxKeyLen+1)),
	} {
		s := p.store()
		_, err := s.GetMany(p.ctx, key)
		p.code(err, core.CodeInvalidArgument, "get with "+name)
		_, err = s.Scan(p.ctx, key, core.ScanOptions{})
		p.code(err, core.CodeInvalidArgument, "scan with "+name)
		_, err = s.Watch(p.ctx, key, 0)
		p.code(err, core.CodeInvalidArgument, "watch with "+name)
		tx := p.begin()
		p.code(tx.Put(key, nil), core.CodeInvalidArgument, "put with "+name)
		p.code(tx.Delete(key), core.CodeInvalidArgument, "delete with "+name)
		_, err = tx.CompareAndSwap(p.ctx, key, nil, []byte("x"))
		p.code(err, core.CodeInvalidArgument, "compare and swap with "+name)
		_, err = tx.GetMany(p.ctx, key)
		p.code(err, core.CodeInvalidArgument, "get in a transaction with "+name)
		p.stage(tx, kitKey("a"), "1")
		p.commit(tx)
	}
}

func largest(p *probe) {
	path := make([]string, core.MaxKeySegments)
	for i := range path {
		path[i] = strings.Repeat(string(rune(i)), core.MaxKeyLen/core.MaxKeySegments)
	}
	key := kitKey(path...).InRun(core.RunID{15: 1})
	value := strings.Repeat("v", core.MaxValueLen)
	p.put(key, value)
	e := p.get(p.store(), key)[0]
	p.check(string(e.Value) == value, "a value of %d bytes came back with %d", len(value), len(e.Value))
	es := p.scan(p.store(), kitKey().InRun(key.Run), core.ScanOptions{})
	p.check(len(es) == 1 && es[0].Key.Equal(key) && string(es[0].Value) == value, "a scan does not find the largest row as it was put")
}

func givenMemory(p *probe) {
	path, value := []string{"a"}, []byte("value")
	key := core.Key{Namespace: "kit", Path: path}
	tx := p.begin()
	p.must(tx.Put(key, value), "put")
	path[0], value[0] = "b", 'X'
	p.holds(tx, kitKey("a"), "value")
	p.commit(tx)
	p.holds(p.store(), kitKey("a"), "value")
	p.absent(p.store(), kitKey("b"))

	path, value = []string{"s"}, []byte("swapped")
	tx = p.begin()
	ok, err := tx.CompareAndSwap(p.ctx, core.Key{Namespace: "kit", Path: path}, nil, value)
	p.check(ok && err == nil, "compare and swap: %v, %v", ok, err)
	path[0], value[0] = "t", 'X'
	p.commit(tx)
	p.holds(p.store(), kitKey("s"), "swapped")
	p.absent(p.store(), kitKey("t"))
}

func returnedMemory(p *probe) {
	p.put(kitKey("a", "x"), "value")
	spoil := func(es []core.Entry) {
		for _, e := range es {
			for i := range e.Value {
				e.Value[i] = 'X'
			}
			_ = append(e.Value, "more"...) // into memory behind the value, if it has any
		}
	}
	spoil(p.get(p.store(), kitKey("a", "x")))
	es := p.scan(p.store(), kitKey(), core.ScanOptions{})
	spoil(es)
	es[0].Key.Path[0] = "spoilt"
	spoil(p.iterate(p.store(), kitKey(), core.ScanOptions{}))
	p.finds(p.store(), kitKey(), core.ScanOptions{}, `["a" "x"]=value`)
	tx := p.begin()
	p.stage(tx, kitKey("b"), "staged")
	spoil(p.get(tx, kitKey("b")))
	spoil(p.scan(tx, kitKey(), core.ScanOptions{}))
	p.holds(tx, kitKey("b"), "staged")
	p.commit(tx)
	p.finds(p.store(), kitKey(), core.ScanOptions{}, `["a" "x"]=value`, `["b"]=staged`)
}
