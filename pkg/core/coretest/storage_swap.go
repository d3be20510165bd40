package coretest

import (
	"bytes"
	"fmt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func storageSwapChecks() []StorageCheck {
	return []StorageCheck{
		rule("compare and swap replaces old by new if the value is old now, and reports whether it was", swapMatrix),
		rule("compare and swap sees what the transaction has staged", swapStaged),
		rule("compare and swap is checked again at commit, whether it swapped or not", swapConflict),
		rule("of many swaps from one value exactly one commits", swapRace),
	}
}

// swapMatrix tries each old and new value on each state of a row.
func swapMatrix(p *probe) {
	states := map[string][]byte{"absent": nil, "empty": {}, "value": []byte("v")}
	olds := map[string][]byte{"nil": nil, "empty": {}, "value": []byte("v"), "other": []byte("o")}
	news := map[string][]byte{"nil": nil, "empty": {}, "value": []byte("w")}
	for stateName, state := range states {
		for oldName, old := range olds {
			for newName, value := range news {
				key := kitKey(stateName, oldName, newName)
				if state != nil {
					p.put(key, string(state))
				}
				tx := p.begin()
				ok, err := tx.CompareAndSwap(p.ctx, key, old, value)
				what := fmt.Sprintf("row %s, old %s, new %s", stateName, oldName, newName)
				p.must(err, what)
				want := (state == nil) == (old == nil) && bytes.Equal(state, old)
				p.check(ok == want, "%s: reported %v, want %v", what, ok, want)
				p.commit(tx)
				after := state
				if want {
					after = value
				}
				if after == nil {
					p.absent(p.store(), key)
				} else {
					p.holds(p.store(), key, string(after))
				}
			}
		}
	}
}

func swapStaged(p *probe) {
	key := kitKey("a")
	p.put(key, "stored")
	tx := p.begin()
	p.stage(tx, key, "staged")
	for _, step := range []struct {
		old, value []byte
		want       bool
	}{
		{[]byte("stored"), []byte("x"), false}, {nil, []byte("x"), false}, {[]byte("staged"), []byte("two"), true},
		{[]byte("two"), nil, true}, {[]byte("two"), []byte("x"), false}, {nil, []byte("three"), true},
	} {
		ok, err := tx.CompareAndSwap(p.ctx, key, step.old, step.value)
		p.must(err, "compare and swap")
		p.check(ok == step.want, "from %q to %q: reported %v", step.old, step.value, ok)
	}
	p.commit(tx)
	p.holds(p.store(), key, "three")
}

func swapConflict(p *probe) {
	for name, old := range map[string]string{"swapped": "1", "refused": "2"} {
		key := kitKey(name)
		p.put(key, "1")
		tx := p.begin()
		ok, err := tx.CompareAndSwap(p.ctx, key, []byte(old), []byte("mine"))
		p.must(err, "compare and swap")
		p.check(ok == (old == "1"), "compare and swap from %q on \"1\" reported %v", old, ok)
		p.stage(tx, kitKey(name, "witness"), "x")
		p.put(key, "theirs")
		_, err = tx.Commit(p.ctx)
		p.code(err, core.CodeConflict, "commit of a compare and swap that was "+name+" after another change")
		p.holds(p.store(), key, "theirs")
		p.absent(p.store(), kitKey(name, "witness"))
	}
}

func swapRace(p *probe) {
	key := kitKey("a")
	p.put(key, "0")
	const n = 16
	won := make(chan int, n)
	meet := p.barrier(n) // all have compared before one commits
	p.together(n, func(i int) error {
		tx, err := p.store().Begin(p.ctx)
		if err != nil {
			return err
		}
		ok, err := tx.CompareAndSwap(p.ctx, key, []byte("0"), fmt.Appendf(nil, "w%d", i))
		meet()
		if err != nil || !ok {
			return fmt.Errorf("a swap from the value that is there reported %v (%w)", ok, errOrNone(err))
		}
		switch _, err = tx.Commit(p.ctx); {
		case err == nil:
			won <- i
		case !core.IsCode(err, core.CodeConflict):
			return err
		}
		return nil
	})
	p.check(len(won) == 1, "%d swaps from the same value committed", len(won))
	p.holds(p.store(), key, fmt.Sprintf("w%d", <-won))
}
