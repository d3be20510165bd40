package memstore_test

import (
	"context"
	"iter"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// onGet, onScan and onIterate make a defect of one read into one of stores.
func onGet(get func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error)) func(core.Storage) core.Storage {
	return func(s core.Storage) core.Storage { return &mutant{Storage: s, get: get} }
}

func onScan(scan func(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error)) func(core.Storage) core.Storage {
	return func(s core.Storage) core.Storage { return &mutant{Storage: s, scan: scan} }
}

func onIterate(iterate func(iter.Seq2[core.Entry, error]) iter.Seq2[core.Entry, error]) func(core.Storage) core.Storage {
	return func(s core.Storage) core.Storage { return &mutant{Storage: s, iterate: iterate} }
}

// oneByOne reads each key in a state of its own, and waits a little for the next
// one.
func oneByOne(s core.Storage) core.Storage {
	return &mutant{Storage: s, get: func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error) {
		var out []core.Entry
		for _, k := range keys {
			e, err := sound(ctx, k)
			if err != nil {
				return nil, err
			}
			out = append(out, e...)
			for before, i := s.Revision(), 0; i < 1000 && s.Revision() == before; i++ {
				runtime.Gosched()
			}
		}
		return out, nil
	}}
}

// sharing hands out the same memory again.
func sharing(s core.Storage) core.Storage {
	var mu sync.Mutex
	kept := map[string][]byte{}
	return &mutant{Storage: s, get: func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error) {
		es, err := sound(ctx, keys...)
		return shared(&mu, kept, es), err
	}, scan: func(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error) {
		es, err := sound(ctx, prefix, o)
		return shared(&mu, kept, es), err
	}}
}

func shared(mu *sync.Mutex, kept map[string][]byte, es []core.Entry) []core.Entry {
	mu.Lock()
	defer mu.Unlock()
	for i, e := range es {
		name := e.Key.String() + string(rune(e.Revision))
		if kept[name] == nil {
			kept[name] = e.Value
		}
		es[i].Value = kept[name]
	}
	return es
}

func forget(keep func(o core.ScanOptions) core.ScanOptions) func(core.Storage) core.Storage {
	return onScan(func(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error) {
		return sound(ctx, prefix, keep(o))
	})
}

func readDefects() []defect {
	return []defect{
		{name: "entries sorted", mutate: onGet(func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error) {
			es, err := sound(ctx, keys...)
			slices.SortStableFunc(es, func(a, b core.Entry) int { return a.Key.Compare(b.Key) })
			return es, err
		}), breaks: []string{"GetMany returns one entry for each key, in the order of keys"}},
		{name: "absence is an error", mutate: onGet(func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error) {
			es, err := sound(ctx, keys...)
			if err == nil && len(es) == 1 && !es[0].Exists() && es[0].Key.Run.IsZero() == false {
				return nil, core.Errorf("get", core.CodeNotFound, "no row")
			}
			return es, err
		}), breaks: []string{"absence is an entry that does not exist, not an error"}},
		{name: "torn read", mutate: oneByOne, breaks: []string{"all entries of one GetMany are read from one committed state"}},
		{name: "revision of the store", mutate: func(s core.Storage) core.Storage {
			return &mutant{Storage: s, get: func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error) {
				es, err := sound(ctx, keys...)
				for i := range es {
					if es[i].Revision == 1 && string(es[i].Value) == "1" && s.Revision() == 2 {
						es[i].Revision = s.Revision()
					}
				}
				return es, err
			}}
		}, breaks: []string{"an entry has the revision of the commit that wrote the row"}},
		{name: "empty is nil", mutate: onGet(func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error) {
			es, err := sound(ctx, keys...)
			for i := range es {
				if len(es[i].Value) == 0 {
					es[i].Value = nil
				}
			}
			return es, err
		}), breaks: []string{"an empty value is a value, not absence"}},
		{name: "any namespace", mutate: onScan(func(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error) {
			prefix.Namespace = core.Namespace(strings.ToLower(string(prefix.Namespace)))
			return sound(ctx, prefix, o)
		}), breaks: []string{"a key that is not valid is refused as invalid argument"}},
		{name: "large values cut", mutate: onGet(func(ctx context.Context, keys []core.Key, sound getFunc) ([]core.Entry, error) {
			es, err := sound(ctx, keys...)
			for i := range es {
				es[i].Value = es[i].Value[:min(len(es[i].Value), 1<<20)]
			}
			return es, err
		}), breaks: []string{"a key of the longest allowed path and a value of the largest allowed size are kept"}},
		{name: "values shared", mutate: sharing, breaks: []string{"a caller owns what it is handed back"}},
		{name: "prefix of bytes", mutate: onScan(bytePrefix), breaks: []string{
			"a prefix covers itself and every key that continues its path with whole segments",
		}},
		{name: "wildcard run", mutate: onScan(anyRun), breaks: []string{
			"there is no wildcard: a prefix covers only rows of its own namespace and run",
		}},
		{name: "path order", mutate: onScan(func(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error) {
			es, err := sound(ctx, prefix, o)
			if len(es) > 50 {
				slices.SortStableFunc(es, func(a, b core.Entry) int {
					return strings.Compare(strings.Join(a.Key.Path, "/"), strings.Join(b.Key.Path, "/"))
				})
			}
			return es, err
		}), breaks: []string{
			"rows come in key order: segment by segment as bytes, a path before its extensions",
			"an iteration sees each key at most once and in order while rows change",
		}},
		{name: "limit forgotten", mutate: forget(func(o core.ScanOptions) core.ScanOptions { o.Limit = min(o.Limit, 0); return o }), breaks: []string{
			"a scan returns at most limit rows", "a reverse scan goes from the last row to the first",
			"every combination of limit, after and reverse finds what its parts promise",
		}},
		{name: "reverse forgotten", mutate: forget(func(o core.ScanOptions) core.ScanOptions { o.Reverse = false; return o }), breaks: []string{
			"a reverse scan goes from the last row to the first",
			"every combination of limit, after and reverse finds what its parts promise",
			"an iteration sees each key at most once and in order while rows change",
		}},
		{name: "after forgotten", mutate: forget(func(o core.ScanOptions) core.ScanOptions { o.After = nil; return o }), breaks: []string{
			"a scan starts strictly behind after, which need not exist but must lie below the prefix",
			"every combination of limit, after and reverse finds what its parts promise",
		}},
		{name: "after not compared with the prefix", mutate: onScan(func(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error) {
			if o.After != nil && !prefix.Covers(*o.After) {
				o.After = nil
			}
			return sound(ctx, prefix, o)
		}), breaks: []string{"a scan starts strictly behind after, which need not exist but must lie below the prefix"}},
		{name: "row repeated", mutate: onIterate(func(seq iter.Seq2[core.Entry, error]) iter.Seq2[core.Entry, error] {
			return every(seq, 512, func(yield func(core.Entry, error) bool, e core.Entry) bool { return yield(e, nil) && yield(e, nil) })
		}), breaks: []string{
			"an iteration sees each key at most once and in order while rows change",
			"an iteration is not bounded by memory: it reads ahead in pieces",
		}},
		{name: "row left out", mutate: onIterate(func(seq iter.Seq2[core.Entry, error]) iter.Seq2[core.Entry, error] {
			return every(seq, 200, func(func(core.Entry, error) bool, core.Entry) bool { return true })
		}), breaks: []string{
			"an iteration can be left early and started again",
			"an iteration is not bounded by memory: it reads ahead in pieces",
		}},
		{name: "error swallowed", mutate: onIterate(func(seq iter.Seq2[core.Entry, error]) iter.Seq2[core.Entry, error] {
			return func(yield func(core.Entry, error) bool) {
				for e, err := range seq {
					if core.IsCode(err, core.CodeCanceled) || !yield(e, err) {
						return
					}
				}
			}
		}), breaks: []string{"the first error of an iteration is its last element"}},
	}
}

// every hands the n-th row of an iteration to instead.
func every(seq iter.Seq2[core.Entry, error], n int, instead func(yield func(core.Entry, error) bool, e core.Entry) bool) iter.Seq2[core.Entry, error] {
	return func(yield func(core.Entry, error) bool) {
		i := 0
		for e, err := range seq {
			i++
			if i == n && err == nil {
				if !instead(yield, e) {
					return
				}
			} else if !yield(e, err) {
				return
			}
		}
	}
}

// bytePrefix takes a prefix for the beginning of a text.
func bytePrefix(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error) {
	if len(prefix.Path) != 1 || o.After != nil || o.Limit != 0 || prefix.Validate() != nil {
		return sound(ctx, prefix, o)
	}
	start := prefix.Path[0]
	prefix.Path = nil
	es, err := sound(ctx, prefix, o)
	return slices.DeleteFunc(es, func(e core.Entry) bool {
		return len(e.Key.Path) == 0 || !strings.HasPrefix(e.Key.Path[0], start)
	}), err
}

// anyRun takes a prefix without a run for one of all runs.
func anyRun(ctx context.Context, prefix core.Key, o core.ScanOptions, sound scanFunc) ([]core.Entry, error) {
	es, err := sound(ctx, prefix, o)
	if err != nil || !prefix.Run.IsZero() {
		return es, err
	}
	more, err := sound(ctx, prefix.InRun(core.RunID{1}), core.ScanOptions{})
	return append(es, more...), err
}
