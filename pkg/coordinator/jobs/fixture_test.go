package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// bench is a book on an in-memory store, which can be closed and opened again as a
// restart of the coordinator does.
type bench struct {
	t     *testing.T
	store *memstore.Store
	objs  *cloudlocal.Objects
	queue *cloudlocal.Queue
	book  *Book
	hold  atomic.Pointer[func()] // called before each commit, when set

	mu     sync.Mutex
	events []core.Event
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t}
	b.store = memstore.New(memstore.Options{CommitHook: func() error {
		if hold := b.hold.Load(); hold != nil {
			(*hold)()
		}
		return nil
	}})
	var err error
	b.objs, err = cloudlocal.OpenObjects(t.Context(), cloudlocal.ObjectsConfig{Root: filepath.Join(t.TempDir(), "objects")})
	if err != nil {
		t.Fatal(err)
	}
	b.open()
	t.Cleanup(func() {
		b.close()
		if err := errors.Join(b.objs.Close(), b.store.Close()); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) open() {
	b.t.Helper()
	ctx := context.Background()
	var err error
	b.queue, err = cloudlocal.OpenQueue(ctx, cloudlocal.QueueConfig{Storage: b.store, Objects: b.objs, RetryFloor: time.Millisecond, RetryBase: time.Millisecond, RetryMax: time.Millisecond})
	if err != nil {
		b.t.Fatal(err)
	}
	b.book, err = Open(ctx, Config{Storage: b.store, Queue: b.queue, Objects: b.objs, Record: b.record})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) close() {
	b.t.Helper()
	if err := errors.Join(b.book.Close(), b.queue.Close()); err != nil {
		b.t.Error(err)
	}
}

func (b *bench) restart() { b.t.Helper(); b.close(); b.open() }

func (b *bench) record(ctx context.Context, writes []core.Write, events ...core.Event) error {
	err := recordTo(b.store)(ctx, writes)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, events...)
	return err
}

// topics returns how often each topic was recorded.
func (b *bench) topics() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := map[string]int{}
	for _, e := range b.events {
		n[e.Topic]++
	}
	return n
}

func lines(payloads ...string) func() (core.JobItem, error) {
	i := 0
	return func() (core.JobItem, error) {
		if i == len(payloads) {
			return core.JobItem{}, io.EOF
		}
		i++
		return core.JobItem{ID: fmt.Sprint("id", i-1), Payload: []byte(payloads[i-1])}, nil
	}
}

var spec = core.JobSpec{Plugin: "reward", Digest: "d1", Method: "score"}

var plugins = []core.LoadedPlugin{{Name: "reward", Version: "1", Digest: "d1", Mode: core.ModeSidecar}}

func ref(n byte, epoch uint64) core.WorkerRef {
	return core.WorkerRef{ID: core.WorkerID{15: n}, Epoch: epoch}
}

func (b *bench) submit(s core.JobSpec, payloads ...string) core.Job {
	b.t.Helper()
	j, err := b.book.Submit(b.t.Context(), s, lines(payloads...))
	if err != nil {
		b.t.Fatal(err)
	}
	return j
}

func (b *bench) attach(w core.WorkerRef, holding ...core.Lease) core.WorkSession {
	b.t.Helper()
	s, err := b.book.Attach(b.t.Context(), w, plugins, holding)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// pull takes n items, however many pulls that needs.
func (b *bench) pull(s core.WorkSession, n int) []core.WorkItem {
	b.t.Helper()
	var out []core.WorkItem
	for len(out) < n {
		items, err := s.Pull(b.t.Context(), core.PullBudget{Slots: 1})
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(out, items...)
	}
	return out
}

func answer(items ...core.WorkItem) []core.WorkResult {
	out := make([]core.WorkResult, len(items))
	for i, it := range items {
		out[i] = core.WorkResult{Lease: it.Lease, Result: []byte(`"` + string(it.Payload) + `"`)}
	}
	return out
}

func (b *bench) accept(s core.WorkSession, rs []core.WorkResult) {
	b.t.Helper()
	errs, err := s.Submit(b.t.Context(), rs)
	if err := errors.Join(append(errs, err)...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) results(id core.JobID, wait bool) []core.ItemResult {
	b.t.Helper()
	var out []core.ItemResult
	if err := b.book.Results(b.t.Context(), id, 0, wait, func(r core.ItemResult) error { out = append(out, r); return nil }); err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) job(id core.JobID) core.Job {
	b.t.Helper()
	j, err := b.book.Job(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return j
}
