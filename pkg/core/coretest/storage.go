package coretest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// StorageFixture is one fresh, empty store under test.
type StorageFixture struct {
	Storage core.Storage
	// Reopen closes the store and opens the same rows again. It replaces Storage.
	Reopen func() error
}

// StorageOptions declares what an implementation does not offer.
type StorageOptions struct {
	NoReopen bool // the rows do not outlive the store
	// HistoryEvents is the bound of the history that open gives the store, which
	// the checks of slow watchers overrun. 0 leaves them out; 400 is the least
	// that the other checks need.
	HistoryEvents int
}

// StorageCheck is one sentence of the contract of [core.Storage], [core.Txn] or
// [core.Watcher], and the check that holds an implementation to it. The check
// returns what it saw. It ends early when ctx does.
type StorageCheck struct {
	Rule  string
	Check func(ctx context.Context, f *StorageFixture) error

	reopen  bool // needs Reopen
	history bool // needs a small history
}

// RunStorage runs every check against a fresh fixture of its own. open registers
// with t whatever clean-up it needs; it may close the store again.
func RunStorage(t *testing.T, open func(t *testing.T) *StorageFixture, opts StorageOptions) {
	t.Helper()
	for _, c := range StorageChecks(opts) {
		t.Run(subtestName(c.Rule), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			if err := c.Check(ctx, open(t)); err != nil {
				t.Errorf("rule broken: %s\n%v", c.Rule, err)
			}
		})
	}
}

// StorageChecks returns the checks that apply, for callers that run them one by
// one.
func StorageChecks(opts StorageOptions) []StorageCheck {
	all := slices.Concat(storageReadChecks(), storageScanChecks(), storageTxnChecks(), storageSwapChecks(),
		storageConflictChecks(), storageCommitChecks(), storageWatchChecks(opts), storageEndChecks())
	return slices.DeleteFunc(all, func(c StorageCheck) bool {
		return c.reopen && opts.NoReopen || c.history && opts.HistoryEvents == 0
	})
}

// rule makes a check of a function that stops at the first thing it finds wrong.
func rule(sentence string, run func(p *probe)) StorageCheck {
	return StorageCheck{Rule: sentence, Check: func(ctx context.Context, f *StorageFixture) (err error) {
		defer func() {
			if r := recover(); r != nil {
				b, ok := r.(broken)
				if !ok {
					panic(r)
				}
				err = b.err
			}
		}()
		run(&probe{ctx: ctx, f: f})
		return nil
	}}
}

func (c StorageCheck) needsReopen() StorageCheck  { c.reopen = true; return c }
func (c StorageCheck) needsHistory() StorageCheck { c.history = true; return c }

// broken carries what a check saw out of it.
type broken struct{ err error }

// probe is what the checks look at a store with. Its methods end the check when
// something is wrong, so they are for the check's own goroutine only.
type probe struct {
	ctx context.Context
	f   *StorageFixture
}

func (p *probe) store() core.Storage { return p.f.Storage }

func (p *probe) failf(format string, args ...any) { panic(broken{fmt.Errorf(format, args...)}) }

func (p *probe) must(err error, what string) {
	if err != nil {
		p.failf("%s: %w", what, err)
	}
}

func (p *probe) code(err error, want core.Code, what string) {
	if got := core.CodeOf(err); err == nil || got != want {
		p.failf("%s: got code %v (%w), want %v", what, got, errOrNone(err), want)
	}
}

func errOrNone(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

func (p *probe) check(ok bool, format string, args ...any) {
	if !ok {
		p.failf(format, args...)
	}
}

// kitKey is a key in the namespace that most checks use.
func kitKey(path ...string) core.Key { return core.NewKey("kit", path...) }

func (p *probe) put(key core.Key, value string) uint64 {
	rev, err := core.PutBytes(p.ctx, p.store(), key, []byte(value))
	p.must(err, "put "+key.String())
	return rev
}

func (p *probe) remove(key core.Key) uint64 {
	rev, err := core.DeleteKey(p.ctx, p.store(), key)
	p.must(err, "delete "+key.String())
	return rev
}

func (p *probe) begin() core.Txn {
	tx, err := p.store().Begin(p.ctx)
	p.must(err, "begin")
	return tx
}

func (p *probe) stage(tx core.Txn, key core.Key, value string) {
	p.must(tx.Put(key, []byte(value)), "stage "+key.String())
}

func (p *probe) commit(tx core.Txn) uint64 {
	rev, err := tx.Commit(p.ctx)
	p.must(err, "commit")
	return rev
}

func (p *probe) get(r core.Reader, keys ...core.Key) []core.Entry {
	es, err := r.GetMany(p.ctx, keys...)
	p.must(err, "get")
	p.check(len(es) == len(keys), "%d keys gave %d entries", len(keys), len(es))
	return es
}

// holds checks one row's value.
func (p *probe) holds(r core.Reader, key core.Key, want string) core.Entry {
	e := p.get(r, key)[0]
	p.check(e.Exists(), "%s is not there, want %q", key, want)
	p.check(string(e.Value) == want, "%s holds %q, want %q", key, e.Value, want)
	return e
}

func (p *probe) absent(r core.Reader, key core.Key) {
	if e := p.get(r, key)[0]; e.Exists() || e.Value != nil {
		p.failf("%s holds %q at revision %d, want no row", key, e.Value, e.Revision)
	}
}

func (p *probe) scan(r core.Reader, prefix core.Key, opts core.ScanOptions) []core.Entry {
	es, err := r.Scan(p.ctx, prefix, opts)
	p.must(err, "scan "+prefix.String())
	return es
}

func (p *probe) iterate(r core.Reader, prefix core.Key, opts core.ScanOptions) []core.Entry {
	var out []core.Entry
	for e, err := range r.Iterate(p.ctx, prefix, opts) {
		p.must(err, "iterate "+prefix.String())
		out = append(out, e)
	}
	return out
}

// rows writes entries as "key=value" for comparison.
func rows(es []core.Entry) []string {
	out := make([]string, len(es))
	for i, e := range es {
		out[i] = fmt.Sprintf("%q=%s", e.Key.Path, e.Value)
	}
	return out
}

// finds checks what a scan, and an iteration with the same arguments, find.
func (p *probe) finds(r core.Reader, prefix core.Key, opts core.ScanOptions, want ...string) {
	if got := rows(p.scan(r, prefix, opts)); !slices.Equal(got, want) {
		p.failf("scan of %s with %s: got %v, want %v", prefix, describe(opts), got, want)
	}
	if got := rows(p.iterate(r, prefix, opts)); !slices.Equal(got, want) {
		p.failf("iteration of %s with %s: got %v, want %v", prefix, describe(opts), got, want)
	}
}

func describe(o core.ScanOptions) string {
	s := fmt.Sprintf("limit %d, reverse %v", o.Limit, o.Reverse)
	if o.After != nil {
		s += fmt.Sprintf(", after %q", o.After.Path)
	}
	return s
}

// together runs n goroutines and waits for all of them; the first error ends the
// check.
func (p *probe) together(n int, run func(i int) error) {
	errs := make(chan error, n)
	for i := range n {
		go func() { errs <- run(i) }()
	}
	var failed []error
	for range n {
		if err := <-errs; err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		p.failf("%d of %d goroutines failed, first: %w", len(failed), n, failed[0])
	}
}

// barrier returns a function that waits until n goroutines have called it, or the
// check is over.
func (p *probe) barrier(n int) func() {
	var mu sync.Mutex
	all := make(chan struct{})
	return func() {
		mu.Lock()
		if n--; n == 0 {
			close(all)
		}
		mu.Unlock()
		select {
		case <-all:
		case <-p.ctx.Done():
		}
	}
}
