package memstore_test

import (
	"context"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func txnDefects() []defect {
	return slices.Concat(stagingDefects(), swapDefects(), commitDefects())
}

func stagingDefects() []defect {
	return []defect{
		{name: "given memory kept", mutate: onTxn(func(t *txMutant) {
			type given struct {
				key   core.Key
				value []byte
			}
			var kept []given
			t.put = func(t *txMutant, key core.Key, value []byte) error {
				kept = append(kept, given{key, value})
				return t.Txn.Put(key, value)
			}
			t.commit = func(ctx context.Context, t *txMutant) (uint64, error) {
				for _, g := range kept[:min(len(kept), 1)] {
					if len(t.ops) == 1 && string(t.ops[0].value) == "value" {
						if err := t.Txn.Put(g.key, g.value); err != nil {
							return 0, err
						}
					}
				}
				return t.Txn.Commit(ctx)
			}
		}), breaks: []string{"a store keeps no reference to what it was given"}},
		{name: "own changes not seen", mutate: onTxn(func(t *txMutant) {
			t.get = func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error) {
				if len(t.ops) == 3 && string(t.ops[0].value) == "new" && len(keys) == 1 {
					return t.store.GetMany(ctx, keys...)
				}
				return sound(ctx, keys...)
			}
		}), breaks: []string{"staged changes are visible to the transaction's own reads at once"}},
		{name: "changes not isolated", mutate: onTxn(func(t *txMutant) {
			t.put = func(t *txMutant, key core.Key, value []byte) error {
				if len(key.Path) == 1 && key.Path[0] == "d" && string(value) == "new" {
					if _, err := core.PutBytes(context.Background(), t.store, key, value); err != nil {
						return err
					}
				}
				return t.Txn.Put(key, value)
			}
		}), breaks: []string{"staged changes are invisible to all others until the commit"}},
		{name: "first change counts", mutate: onTxn(func(t *txMutant) {
			seen := map[string]bool{}
			t.put = func(t *txMutant, key core.Key, value []byte) error {
				if seen[key.String()] && len(t.ops) > 20 {
					return nil
				}
				seen[key.String()] = true
				return t.Txn.Put(key, value)
			}
		}), breaks: []string{"the last change staged for a key counts"}},
		{name: "limit before the changes", mutate: onTxn(func(t *txMutant) {
			t.scan = func(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error) {
				if o.Limit == 0 || len(t.ops) == 0 {
					return sound(ctx, prefix, o)
				}
				below, err := t.store.Scan(ctx, prefix, o)
				if err != nil {
					return nil, err
				}
				es, err := sound(ctx, prefix, o)
				return es[:min(len(es), len(below))], err
			}
		}), breaks: []string{"a scan in a transaction lays its changes over the rows, whatever the limit and the direction"}},
		{name: "iteration without the changes", mutate: onTxn(func(t *txMutant) {
			t.iterate = func(seq iter.Seq2[core.Entry, error]) iter.Seq2[core.Entry, error] {
				if len(t.ops) < 100 {
					return seq
				}
				return t.store.Iterate(context.Background(), core.NewKey("kit"), core.ScanOptions{})
			}
		}), breaks: []string{"an iteration in a transaction lays its changes over the rows"}},
		{name: "large value cut", mutate: onTxn(func(t *txMutant) {
			t.put = func(t *txMutant, key core.Key, value []byte) error {
				return t.Txn.Put(key, value[:min(len(value), core.MaxValueLen)])
			}
		}), breaks: []string{"a value that is too large is refused and leaves the transaction usable"}},
		{name: "full transaction lost", mutate: onTxn(func(t *txMutant) {
			t.put = func(t *txMutant, key core.Key, value []byte) error {
				err := t.Txn.Put(key, value)
				if core.IsCode(err, core.CodeTooLarge) && len(value) <= core.MaxValueLen {
					t.Txn.Discard()
				}
				return err
			}
		}), breaks: []string{"a transaction that holds too many bytes refuses more and stays usable"}},
		{name: "usable after the end", mutate: onTxn(func(t *txMutant) {
			t.delete = func(t *txMutant, key core.Key) error {
				if err := t.Txn.Delete(key); !core.IsCode(err, core.CodeClosed) {
					return err
				}
				return nil
			}
		}), breaks: []string{"a transaction is finished by Commit and by Discard"}},
	}
}

func swapDefects() []defect {
	return []defect{
		{name: "empty is nil in a swap", mutate: onTxn(func(t *txMutant) {
			t.cas = func(ctx context.Context, t *txMutant, key core.Key, old, value []byte) (bool, error) {
				e, err := core.Get(ctx, t.Txn, key)
				if err == nil && e.Exists() && len(e.Value) == 0 && old == nil {
					return true, t.Put(key, value)
				}
				return t.Txn.CompareAndSwap(ctx, key, old, value)
			}
		}), breaks: []string{"compare and swap replaces old by new if the value is old now, and reports whether it was"}},
		{name: "swap of the stored value", mutate: onTxn(func(t *txMutant) {
			t.cas = func(ctx context.Context, t *txMutant, key core.Key, old, value []byte) (bool, error) {
				if string(old) == "stored" {
					return true, nil
				}
				return t.Txn.CompareAndSwap(ctx, key, old, value)
			}
		}), breaks: []string{"compare and swap sees what the transaction has staged"}},
		{name: "refused swap not remembered", mutate: onTxn(func(t *txMutant) {
			t.cas = func(ctx context.Context, t *txMutant, key core.Key, old, value []byte) (bool, error) {
				es, err := t.store.GetMany(ctx, key)
				if err == nil && len(t.ops) == 0 && es[0].Exists() && old != nil && string(es[0].Value) != string(old) {
					return false, nil
				}
				return t.Txn.CompareAndSwap(ctx, key, old, value)
			}
		}), breaks: []string{"compare and swap is checked again at commit, whether it swapped or not"}},
	}
}

const (
	conflictRow   = "a commit fails with a conflict when a row that was read has changed"
	conflictGone  = "a commit fails with a conflict when a row that was found absent is there"
	conflictRange = "a commit fails with a conflict when a range that was scanned has changed"
	conflictHint  = "a conflict carries the hint to retry at once, and stores nothing"
	readsOnly     = "a transaction without changes validates its reads and returns the current revision"
	lostUpdate    = "committed transactions are serializable: no lost update"
	writeSkew     = "committed transactions are serializable: no write skew"
	swapAgain     = "compare and swap is checked again at commit, whether it swapped or not"
	swapRace      = "of many swaps from one value exactly one commits"
	updateAgain   = "Update runs again after a conflict and returns other errors as they are"
	neverFailed   = "a commit that failed is never delivered"
	unblocked     = "a forgotten transaction, an unread iterator and an unread watcher block nobody"
	allOrNothing  = "a commit is all or nothing for every reader"
	wholeCommit   = "a commit is delivered whole: its changes in key order, each key once"
	endedContext  = "a context that has ended stops an operation before it has any effect"
	afterReopen   = "a commit that returned nil is there after a reopen, and nothing else"
)

func commitDefects() []defect {
	return []defect{
		{name: "conflicts ignored", mutate: onTxn(func(t *txMutant) {
			t.commit = func(ctx context.Context, t *txMutant) (uint64, error) {
				rev, err := t.Txn.Commit(ctx)
				if core.IsCode(err, core.CodeConflict) {
					return t.again(ctx, t.ops)
				}
				return rev, err
			}
		}), breaks: []string{
			conflictRow, conflictGone, conflictRange, conflictHint, readsOnly, lostUpdate, writeSkew, swapAgain, swapRace,
			updateAgain, neverFailed, unblocked, afterReopen,
		}},
		{name: "ranges not remembered", mutate: onTxn(func(t *txMutant) {
			t.scan = func(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error) {
				if len(t.ops) > 0 {
					return sound(ctx, prefix, o)
				}
				return t.store.Scan(ctx, prefix, o)
			}
		}), breaks: []string{conflictRange, readsOnly, writeSkew}},
		{name: "absence not remembered", mutate: onTxn(func(t *txMutant) {
			t.get = func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error) {
				es, err := t.store.GetMany(ctx, keys...)
				if err == nil && len(t.ops) == 0 && len(es) == 1 && !es[0].Exists() {
					return es, nil
				}
				return sound(ctx, keys...)
			}
		}), breaks: []string{conflictGone, afterReopen}},
		{name: "namespace remembered for a row", mutate: onTxn(func(t *txMutant) {
			t.get = func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error) {
				if len(keys) == 1 && len(keys[0].Path) == 1 && keys[0].Path[0] == "s" {
					if _, err := t.Txn.Scan(ctx, core.NewKey("kit"), core.ScanOptions{}); err != nil {
						return nil, err
					}
				}
				return sound(ctx, keys...)
			}
		}), breaks: []string{"a commit does not conflict with changes to what it has not read"}},
		{name: "blind writes remembered", mutate: onTxn(func(t *txMutant) {
			t.put = func(t *txMutant, key core.Key, value []byte) error {
				if key.Validate() == nil && string(value) == "mine" {
					if _, err := t.Txn.GetMany(context.Background(), key); err != nil {
						return err
					}
				}
				return t.Txn.Put(key, value)
			}
		}), breaks: []string{"changes that were never read do not conflict"}},
		{name: "conflict with a wait", mutate: onTxn(func(t *txMutant) {
			t.commit = func(ctx context.Context, t *txMutant) (uint64, error) {
				rev, err := t.Txn.Commit(ctx)
				if core.IsCode(err, core.CodeConflict) {
					err = core.Errorf("commit", core.CodeConflict, "later").WithRetry(core.RetryHint{Kind: core.RetryAfter, After: time.Second})
				}
				return rev, err
			}
		}), breaks: []string{conflictHint}},
		{name: "revision before the commit", mutate: func(s core.Storage) core.Storage {
			return &mutant{Storage: s, revision: func(now uint64) uint64 {
				if now > 390 {
					return now - 1
				}
				return now
			}}
		}, breaks: []string{"revisions of concurrent commits are unique and ordered as the commits are"}},
		{name: "new store at one", mutate: func(s core.Storage) core.Storage {
			return &mutant{Storage: s, revision: func(now uint64) uint64 { return max(now, 1) }}
		}, breaks: []string{"a new store is at revision 0"}},
		{name: "commit returns the one before", mutate: onTxn(func(t *txMutant) {
			t.commit = func(ctx context.Context, t *txMutant) (uint64, error) {
				rev, err := t.Txn.Commit(ctx)
				if rev == 21 {
					rev = 20
				}
				return rev, err
			}
		}), breaks: []string{
			"each commit has a revision higher than all before it, and the store is at the last one",
			"revisions of concurrent commits are unique and ordered as the commits are", watchKeepsUp,
		}},
		{name: "removal of nothing is a commit", mutate: onTxn(func(t *txMutant) {
			t.commit = func(ctx context.Context, t *txMutant) (uint64, error) {
				before := t.store.Revision()
				rev, err := t.Txn.Commit(ctx)
				if err != nil || rev != before || len(t.ops) != 1 || t.ops[0].key.Path[0] != "b" {
					return rev, err
				}
				return core.PutBytes(ctx, t.store, core.NewKey("tombstones"), nil)
			}
		}), breaks: []string{"removing a row that is not there changes nothing"}},
		{name: "large commits in two halves", mutate: halfCommits, breaks: []string{allOrNothing, wholeCommit, afterReopen}},
		{name: "commit without its context", mutate: onTxn(func(t *txMutant) {
			t.commit = func(ctx context.Context, t *txMutant) (uint64, error) {
				return t.Txn.Commit(context.WithoutCancel(ctx))
			}
		}), breaks: []string{endedContext, neverFailed}},
		{name: "one transaction at a time", mutate: func(s core.Storage) core.Storage {
			open := make(chan struct{}, 2)
			return &mutant{Storage: s, watcher: func(w core.Watcher, err error) (core.Watcher, error) {
				if err == nil && s.Revision() == 1 {
					open <- struct{}{}
				}
				return w, err
			}, begin: func(tx core.Txn) core.Txn {
				t := &txMutant{Txn: tx, store: s}
				t.commit = func(ctx context.Context, t *txMutant) (uint64, error) {
					if len(open) > 0 && len(t.ops) == 1 && string(t.ops[0].value) == "again" {
						<-ctx.Done() // until the watcher is read, which is never
					}
					return t.Txn.Commit(ctx)
				}
				return t
			}}
		}, breaks: []string{unblocked}},
	}
}

// halfCommits commits a large transaction in two halves. The first time that there
// are readers, one of them has scanned before the second half follows.
func halfCommits(s core.Storage) core.Storage {
	var half atomic.Bool // half a commit is there to be seen
	var once sync.Once
	seen := make(chan struct{})
	return &mutant{
		Storage: s,
		iterate: func(seq iter.Seq2[core.Entry, error]) iter.Seq2[core.Entry, error] { return seq },
		scan: func(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error) {
			during := half.Load()
			es, err := sound(ctx, prefix, o)
			if during {
				once.Do(func() { close(seen) })
			}
			return es, err
		},
		begin: func(tx core.Txn) core.Txn {
			t := &txMutant{Txn: tx, store: s}
			t.commit = func(ctx context.Context, t *txMutant) (uint64, error) {
				n := len(t.ops)
				if n != 40 && n != 9 {
					return t.Txn.Commit(ctx)
				}
				if _, err := t.again(ctx, t.ops[:n/2]); err != nil {
					return 0, err
				}
				if n == 40 {
					half.Store(true)
					select {
					case <-seen:
					case <-ctx.Done():
					}
				}
				return t.again(ctx, t.ops[n/2:])
			}
			return t
		},
	}
}
