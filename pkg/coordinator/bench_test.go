package coordinator

import (
	"context"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// benchCoordinator runs a coordinator with n registered workers whose control
// streams count as open.
func benchCoordinator(b *testing.B, s core.Storage, n int) *started {
	b.Helper()
	c := start(b, s, func(cfg *Config, _ *Coordinator) {
		cfg.Timing = core.DefaultTiming(time.Minute)
		cfg.FlushInterval = time.Minute
	})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := c.Register(context.Background(), core.Registration{ID: workerID(i), ProtocolMin: 1, ProtocolMax: 1}); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	c.mu.Lock()
	for _, w := range c.workers {
		w.control = &subscription{over: make(chan struct{})}
	}
	c.mu.Unlock()
	return c
}

// BenchmarkBeat is the whole path of an ordinary beat inside the coordinator, from
// two goroutines for each CPU, with 10,000 workers. Beside it stands the least that
// a beat needs: finding the worker under a lock and noting the time.
func BenchmarkBeat(b *testing.B) {
	const n = 10_000
	b.Run("coordinator", func(b *testing.B) {
		c := benchCoordinator(b, newStore(), n)
		var next atomic.Uint64
		ctx, now := context.Background(), time.Now()
		b.ReportAllocs()
		b.SetParallelism(2)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				i := next.Add(1)
				h := core.Heartbeat{Worker: core.WorkerRef{ID: workerID(int(i % n)), Epoch: 1}, Seq: i, SentAt: now, State: core.StateInit}
				if _, err := c.Beat(ctx, h); err != nil {
					b.Error(err)
					return
				}
			}
		})
	})
	b.Run("raw", func(b *testing.B) {
		type seen struct{ at time.Time }
		book := &started{Coordinator: &Coordinator{}}
		workers := make(map[core.WorkerID]*seen, n)
		for i := range n {
			workers[workerID(i)] = &seen{}
		}
		var next atomic.Uint64
		b.ReportAllocs()
		b.SetParallelism(2)
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				id := workerID(int(next.Add(1) % n))
				book.mu.Lock()
				workers[id].at = time.Now()
				book.mu.Unlock()
			}
		})
	})
}

// BenchmarkWorkerMemory measures the heap that one registered worker costs in the
// book, its row in an in-memory store included.
func BenchmarkWorkerMemory(b *testing.B) {
	const n = 10_000
	for b.Loop() {
		before := heap()
		c := benchCoordinator(b, newStore(), n)
		b.ReportMetric(float64(heap()-before)/n, "B/worker")
		if err := c.stop(); err != nil {
			b.Fatal(err)
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkFlush measures one flush of the beats of 10,000 workers, in memory and
// into a file.
func BenchmarkFlush(b *testing.B) {
	b.Run("memory", func(b *testing.B) { benchFlush(b, newStore()) })
	b.Run("file", func(b *testing.B) {
		s, err := storage.Open(context.Background(), storage.Config{Path: filepath.Join(b.TempDir(), "rollout.db")})
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := s.Close(); err != nil {
				b.Error(err)
			}
		})
		benchFlush(b, s)
	})
}

func benchFlush(b *testing.B, s core.Storage) {
	const n = 10_000
	c := benchCoordinator(b, s, n)
	seq := uint64(0)
	for b.Loop() {
		b.StopTimer()
		seq++
		for i := range n {
			if _, err := c.Beat(context.Background(), core.Heartbeat{Worker: core.WorkerRef{ID: workerID(i), Epoch: 1}, Seq: seq, State: core.StateInit}); err != nil {
				b.Fatal(err)
			}
		}
		b.StartTimer()
		if err := c.flushBeats(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
}
