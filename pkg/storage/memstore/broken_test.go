package memstore_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// defect is one way to be broken and the sentences that it breaks, all of them.
type defect struct {
	name   string
	mutate func(s core.Storage) core.Storage
	reopen func(s *memstore.Store) *memstore.Store // nil: as a file would
	breaks []string
}

// TestBrokenStoresFailTheSentencesTheyBreak runs the kit on defective stores. Each
// must fail every sentence that it breaks and no other, and each sentence must be
// failed by one of them.
func TestBrokenStoresFailTheSentencesTheyBreak(t *testing.T) {
	opts := coretest.StorageOptions{HistoryEvents: kitHistory}
	checks := coretest.StorageChecks(opts)
	all := slices.Concat(readDefects(), txnDefects(), watchDefects(), endDefects())
	verdicts := make([]verdict, len(all))
	var wg sync.WaitGroup
	room := make(chan struct{}, 16) // most of them wait for what never comes
	for i, d := range all {
		wg.Go(func() {
			room <- struct{}{}
			verdicts[i] = judge(t.Context(), i, d, checks)
			<-room
		})
	}
	wg.Wait()
	failed := map[string]bool{}
	for i, d := range all {
		t.Run(d.name, func(t *testing.T) {
			for _, w := range verdicts[i].wrong {
				t.Error(w)
			}
		})
		for _, rule := range verdicts[i].broken {
			failed[rule] = true
		}
	}
	for _, c := range checks {
		if !failed[c.Rule] {
			t.Errorf("no defective store fails the sentence %q", c.Rule)
		}
	}
}

// Checks that take longest are left to the defects that break their sentences:
// entirely where they move many megabytes, and to one other in [share], taking
// turns, where they move many rows.
var (
	huge = []string{
		"a transaction that holds too many bytes refuses more and stays usable",
		"a key of the longest allowed path and a value of the largest allowed size are kept",
		"a value that is too large is refused and leaves the transaction usable",
	}
	long = []string{
		"an iteration in a transaction lays its changes over the rows",
		"an iteration is not bounded by memory: it reads ahead in pieces",
		"a watcher that keeps up is not bothered by the bound of the history",
		"every combination of limit, after and reverse finds what its parts promise",
		"a scan in a transaction lays its changes over the rows, whatever the limit and the direction",
		"an iteration sees each key at most once and in order while rows change",
		"a commit is all or nothing for every reader",
		endCommits,
	}
)

const share = 8

// spared reports whether the n-th defect, which does not break a sentence, is not
// tried with it.
func spared(n int, rule string) bool {
	if slices.Contains(huge, rule) {
		return true
	}
	k := slices.Index(long, rule)
	return k >= 0 && (n+k)%share != 0
}

// verdict is what the kit said of one defective store.
type verdict struct {
	broken []string // sentences that it failed
	wrong  []string // what should have been otherwise
}

// judge runs the kit on the n-th defect.
func judge(ctx context.Context, n int, d defect, checks []coretest.StorageCheck) (v verdict) {
	for _, c := range checks {
		want := slices.Contains(d.breaks, c.Rule)
		if !want && spared(n, c.Rule) {
			continue
		}
		err := runOne(ctx, d, c, want)
		if err != nil {
			v.broken = append(v.broken, c.Rule)
		}
		if want != (err != nil) {
			v.wrong = append(v.wrong, fmt.Sprintf("sentence %q: broken is %v, want %v (%v)", c.Rule, err != nil, want, err))
		}
	}
	return v
}

// runOne gives a check that should pass long enough for a loaded machine. One that
// should fail may have to wait for what never comes.
func runOne(ctx context.Context, d defect, c coretest.StorageCheck, fails bool) error {
	limit := time.Minute
	if fails {
		limit = time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	inner, f := reopenable(d)
	err := c.Check(ctx, f)
	if cerr := (*inner).Close(); cerr != nil {
		return cerr
	}
	return err
}

// reopenable returns a defective store whose rows outlive it, as a file's would,
// and the sound store below.
func reopenable(d defect) (**memstore.Store, *coretest.StorageFixture) {
	inner := memstore.New(memstore.Options{HistoryEvents: kitHistory})
	wrap := d.mutate
	if wrap == nil {
		wrap = func(s core.Storage) core.Storage { return s }
	}
	f := &coretest.StorageFixture{Storage: wrap(inner)}
	f.Reopen = func() error {
		if err := f.Storage.Close(); err != nil {
			return err
		}
		if d.reopen != nil {
			inner = d.reopen(inner)
		} else {
			inner = memstore.Reopen(inner, 0)
		}
		f.Storage = wrap(inner)
		return nil
	}
	return &inner, f
}

// onTxn makes a defect of transactions into one of stores.
func onTxn(defective func(t *txMutant)) func(core.Storage) core.Storage {
	return func(s core.Storage) core.Storage {
		return &mutant{Storage: s, begin: func(tx core.Txn) core.Txn {
			t := &txMutant{Txn: tx, store: s}
			defective(t)
			return t
		}}
	}
}

// onWatcher makes a defect of watchers into one of stores.
func onWatcher(defective func(w *watchMutant)) func(core.Storage) core.Storage {
	return func(s core.Storage) core.Storage {
		return &mutant{Storage: s, watcher: func(w core.Watcher, err error) (core.Watcher, error) {
			if err != nil {
				return nil, err
			}
			m := &watchMutant{Watcher: w}
			defective(m)
			return m, nil
		}}
	}
}
