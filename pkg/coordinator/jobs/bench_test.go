package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// BenchmarkItems is the life of one item in a job of that many: submitted, leased,
// answered, its result durable and read. The time of an item must not follow the
// number of items, nor must the memory.
func BenchmarkItems(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			for range b.N {
				benchItems(b, n)
			}
		})
	}
}

// BenchmarkFinishedJobs is what a coordinator keeps of jobs that have ended: heap for
// each, and the time to open again with all of them.
func BenchmarkFinishedJobs(b *testing.B) {
	const n = 10_000
	for range b.N {
		r := newBenchRoom(b)
		book, queue := r.open(b)
		run, stop := context.WithCancel(b.Context())
		var workers, submitters sync.WaitGroup
		for w := range byte(4) {
			workers.Go(func() { benchWorker(b, run, book, ref(w+1, 1)) })
		}
		before := heap()
		for range 32 {
			submitters.Go(func() {
				for range n / 32 {
					j, err := book.Submit(run, spec, lines("a", "b", "c"))
					if err == nil {
						err = book.Results(run, j.ID, 0, true, func(core.ItemResult) error { return nil })
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		submitters.Wait()
		b.ReportMetric((heap()-before)/n, "B/job")
		stop()
		workers.Wait()
		if err := errors.Join(book.Close(), queue.Close()); err != nil {
			b.Fatal(err)
		}
		again := time.Now()
		book, queue = r.open(b)
		b.ReportMetric(float64(time.Since(again).Milliseconds()), "open-ms")
		r.close(b, book, queue)
	}
}

// heap returns the bytes that are reachable.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// benchRoom is a directory with a store and objects, on which books are opened.
type benchRoom struct {
	store   *storage.Store
	objects *cloudlocal.Objects
}

func newBenchRoom(b *testing.B) *benchRoom {
	dir := b.TempDir()
	store, err := storage.Open(b.Context(), storage.Config{Path: filepath.Join(dir, "rollout.db")})
	if err != nil {
		b.Fatal(err)
	}
	objects, err := cloudlocal.OpenObjects(b.Context(), cloudlocal.ObjectsConfig{Root: filepath.Join(dir, "objects")})
	if err != nil {
		b.Fatal(err)
	}
	return &benchRoom{store, objects}
}

func (r *benchRoom) open(b *testing.B) (*Book, *cloudlocal.Queue) {
	queue, err := cloudlocal.OpenQueue(b.Context(), cloudlocal.QueueConfig{Storage: r.store, Objects: r.objects, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	book, err := Open(b.Context(), Config{Storage: r.store, Queue: queue, Objects: r.objects, Record: recordTo(r.store)})
	if err != nil {
		b.Fatal(err)
	}
	return book, queue
}

func (r *benchRoom) close(b *testing.B, book *Book, queue *cloudlocal.Queue) {
	for _, c := range []io.Closer{book, queue, r.objects, r.store} {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	}
}

var rssAnon = regexp.MustCompile(`(?m)^RssAnon:\s+(\d+) kB$`)

// anonymous returns the memory of this process that no file stands behind.
func anonymous(b *testing.B) float64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Fatal(err)
	}
	m := rssAnon.FindSubmatch(text)
	if m == nil {
		b.Fatal("the system does not tell the anonymous memory of a process")
	}
	kib, err := strconv.ParseFloat(string(m[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return kib * 1024
}

func benchItems(b *testing.B, n int) {
	ctx, room := b.Context(), newBenchRoom(b)
	book, queue := room.open(b)
	debug.FreeOSMemory()
	before := anonymous(b)
	peak := watchMemory(b)
	began := time.Now()
	i := 0
	j, err := book.Submit(ctx, spec, func() (core.JobItem, error) {
		if i == n {
			return core.JobItem{}, io.EOF
		}
		i++
		return core.JobItem{ID: strconv.Itoa(i), Payload: fmt.Appendf(nil, `{"completion":"%0200d"}`, i)}, nil
	})
	if err != nil {
		b.Fatal(err)
	}
	submitted := time.Since(began)
	if err := errors.Join(book.Close(), queue.Close()); err != nil {
		b.Fatal(err)
	}
	again := time.Now()
	book, queue = room.open(b)
	b.ReportMetric(float64(time.Since(again).Milliseconds()), "open-ms")
	var workers sync.WaitGroup
	run, stop := context.WithCancel(ctx)
	for w := range byte(4) {
		workers.Go(func() { benchWorker(b, run, book, ref(w+1, 1)) })
	}
	read := 0
	if err := book.Results(ctx, j.ID, 0, true, func(core.ItemResult) error { read++; return nil }); err != nil || read != n {
		b.Fatalf("%d results, %v", read, err)
	}
	stop()
	workers.Wait()
	whole := time.Since(began)
	b.ReportMetric(float64(submitted.Nanoseconds())/float64(n), "submit-ns/item")
	b.ReportMetric(float64(whole.Nanoseconds())/float64(n), "ns/item")
	b.ReportMetric(peak()-before, "grown-B")
	room.close(b, book, queue)
}

// watchMemory returns a function that ends the watching and returns the most
// anonymous memory seen.
func watchMemory(b *testing.B) func() float64 {
	stop, done := make(chan struct{}), make(chan float64, 1)
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		most := 0.0
		for {
			most = max(most, anonymous(b))
			select {
			case <-tick.C:
			case <-stop:
				done <- most
				return
			}
		}
	}()
	return func() float64 { close(stop); return <-done }
}

// benchWorker answers items as they come, 64 slots wide.
func benchWorker(b *testing.B, ctx context.Context, book *Book, w core.WorkerRef) {
	s, err := book.Attach(ctx, w, plugins, nil)
	if err != nil {
		b.Error(err)
		return
	}
	for {
		items, err := s.Pull(ctx, core.PullBudget{Slots: 64})
		if err != nil {
			return // the end
		}
		results := make([]core.WorkResult, len(items))
		for i, it := range items {
			results[i] = core.WorkResult{Lease: it.Lease, Result: []byte(`{"score":1}`)}
		}
		errs, err := s.Submit(context.WithoutCancel(ctx), results)
		if err != nil {
			b.Error(err)
			return
		}
		for _, err := range errs {
			if err != nil {
				b.Error(err)
			}
		}
	}
}

func recordTo(store core.Storage) func(context.Context, []core.Write, ...core.Event) error {
	return func(ctx context.Context, writes []core.Write, _ ...core.Event) error {
		if len(writes) == 0 {
			return nil
		}
		_, err := core.Update(ctx, store, func(tx core.Txn) error {
			for _, w := range writes {
				if w.Delete {
					if err := tx.Delete(w.Key); err != nil {
						return err
					}
				} else if err := tx.Put(w.Key, w.Value); err != nil {
					return err
				}
			}
			return nil
		})
		return err
	}
}
