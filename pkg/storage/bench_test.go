package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Each row is measured twice: ours, and raw, which is bbolt used well by hand. Both
// sides store 256 bytes under keys of 100 bytes that are spread like random ones
// and never repeat, and sync every commit.

const (
	benchKeyLen   = 100
	benchValueLen = 256
)

var benchBucket = []byte("bench")

// benchName is the n-th key's text, spread by a bijection so that neighbours in
// time are no neighbours in the tree.
func benchName(n uint64) string {
	n ^= n >> 31
	n *= 0x9E3779B97F4A7C15
	n ^= n >> 29
	b := bytes.Repeat([]byte{'k'}, benchKeyLen)
	for i := range 16 {
		b[i] = "0123456789abcdef"[n>>(60-4*i)&15]
	}
	return string(b)
}

func benchValue(n uint64) []byte {
	b := make([]byte, benchValueLen)
	for i := 0; i < len(b); i += 8 {
		n = n*6364136223846793005 + 1442695040888963407
		binary.LittleEndian.PutUint64(b[i:], n)
	}
	return b
}

func benchStore(b *testing.B) *Store {
	b.Helper()
	store, err := Open(b.Context(), Config{Path: filepath.Join(b.TempDir(), "ours.db")})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := store.Close(); err != nil {
			b.Error(err)
		}
	})
	return store
}

func benchBolt(b *testing.B) *bolt.DB {
	b.Helper()
	db, err := bolt.Open(filepath.Join(b.TempDir(), "raw.db"), 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoStatistics: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	})
	err = db.Update(func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket(benchBucket)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return db
}

func benchKey(n uint64) core.Key { return core.NewKey(core.NamespaceItems, benchName(n)) }

// spread runs b.N calls of do, shared by that many goroutines.
func spread(b *testing.B, goroutines int, do func(n uint64) error) {
	b.Helper()
	var next atomic.Uint64
	var group sync.WaitGroup
	errs := make(chan error, goroutines)
	b.ResetTimer()
	for range goroutines {
		group.Go(func() {
			for n := next.Add(1); n <= uint64(b.N); n = next.Add(1) {
				if err := do(n); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	close(errs)
	if err := <-errs; err != nil {
		b.Fatal(err)
	}
}

// groupCommitter is group commit on bbolt by hand: one goroutine commits whatever
// is waiting in one Update.
type groupCommitter struct {
	db    *bolt.DB
	queue chan *groupPut
	done  chan struct{}
}

type groupPut struct {
	key, value []byte
	result     chan error
}

func newGroupCommitter(db *bolt.DB) *groupCommitter {
	g := &groupCommitter{db: db, queue: make(chan *groupPut, 4096), done: make(chan struct{})}
	go g.run()
	return g
}

func (g *groupCommitter) run() {
	defer close(g.done)
	var group []*groupPut
	for first := range g.queue {
		group = append(group[:0], first)
		for len(group) < 1024 {
			select {
			case more, ok := <-g.queue:
				if ok {
					group = append(group, more)
					continue
				}
			default:
			}
			break
		}
		err := g.db.Update(func(tx *bolt.Tx) error {
			bucket := tx.Bucket(benchBucket)
			for _, p := range group {
				if err := bucket.Put(p.key, p.value); err != nil {
					return err
				}
			}
			return nil
		})
		for _, p := range group {
			p.result <- err
		}
	}
}

func (g *groupCommitter) put(key, value []byte) error {
	p := &groupPut{key: key, value: value, result: make(chan error, 1)}
	g.queue <- p
	return <-p.result
}

func (g *groupCommitter) close() {
	close(g.queue)
	<-g.done
}

// BenchmarkPut is one durable put of one row.
func BenchmarkPut(b *testing.B) {
	for _, writers := range []int{1, 64, 256} {
		name := fmt.Sprintf("%d-writers", writers)
		if writers == 1 {
			name = "1-writer"
		}
		b.Run(name+"/ours", func(b *testing.B) {
			store := benchStore(b)
			spread(b, writers, func(n uint64) error {
				_, err := core.PutBytes(b.Context(), store, benchKey(n), benchValue(n))
				return err
			})
		})
		b.Run(name+"/raw", func(b *testing.B) {
			db := benchBolt(b)
			put := func(key, value []byte) error {
				return db.Update(func(tx *bolt.Tx) error { return tx.Bucket(benchBucket).Put(key, value) })
			}
			if writers > 1 {
				g := newGroupCommitter(db)
				defer g.close()
				put = g.put
			}
			spread(b, writers, func(n uint64) error { return put([]byte(benchName(n)), benchValue(n)) })
		})
	}
}

const benchRows = 100_000

// fillStore puts benchRows rows.
func fillStore(b *testing.B, store *Store) {
	b.Helper()
	for from := uint64(1); from <= benchRows; from += 10_000 {
		_, err := core.Update(b.Context(), store, func(tx core.Txn) error {
			for n := from; n < from+10_000; n++ {
				if err := tx.Put(benchKey(n), benchValue(n)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

func fillBolt(b *testing.B, db *bolt.DB) {
	b.Helper()
	for from := uint64(1); from <= benchRows; from += 10_000 {
		err := db.Update(func(tx *bolt.Tx) error {
			bucket := tx.Bucket(benchBucket)
			for n := from; n < from+10_000; n++ {
				if err := bucket.Put([]byte(benchName(n)), benchValue(n)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}

var errMissing = errors.New("a row is missing or has another value")

// BenchmarkGet is one get of one of 100,000 rows. The raw side copies the value
// out of the transaction, as its caller must.
func BenchmarkGet(b *testing.B) {
	for _, readers := range []int{1, 2} {
		name := map[int]string{1: "1-reader", 2: "2-readers"}[readers]
		b.Run(name+"/ours", func(b *testing.B) {
			store := benchStore(b)
			fillStore(b, store)
			spread(b, readers, func(n uint64) error {
				e, err := core.Get(b.Context(), store, benchKey(n%benchRows+1))
				if err == nil && len(e.Value) != benchValueLen {
					err = errMissing
				}
				return err
			})
		})
		b.Run(name+"/raw", func(b *testing.B) {
			db := benchBolt(b)
			fillBolt(b, db)
			spread(b, readers, func(n uint64) error {
				var value []byte
				err := db.View(func(tx *bolt.Tx) error {
					value = bytes.Clone(tx.Bucket(benchBucket).Get([]byte(benchName(n%benchRows + 1))))
					return nil
				})
				if err == nil && len(value) != benchValueLen {
					err = errMissing
				}
				return err
			})
		})
	}
}

// BenchmarkScan streams 100,000 rows. The raw side moves a cursor over them, looks
// at keys and values where they lie and copies nothing.
func BenchmarkScan(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		store := benchStore(b)
		fillStore(b, store)
		for b.Loop() {
			streamStore(b, store, func(int) {})
		}
		b.ReportMetric(float64(benchRows*b.N)/b.Elapsed().Seconds(), "keys/s")

		var peak heapPeak
		peak.start()
		streamStore(b, store, func(row int) {
			if row%5000 == 0 {
				peak.sample()
			}
		})
		b.ReportMetric(float64(peak.most), "peak-B")
	})
	b.Run("raw", func(b *testing.B) {
		db := benchBolt(b)
		fillBolt(b, db)
		var sum int
		for b.Loop() {
			rows := 0
			err := db.View(func(tx *bolt.Tx) error {
				c := tx.Bucket(benchBucket).Cursor()
				for k, v := c.First(); k != nil; k, v = c.Next() {
					if len(v) != benchValueLen {
						return errMissing
					}
					sum += int(k[0]) + int(v[0])
					rows++
				}
				return nil
			})
			if err != nil || rows != benchRows {
				b.Fatal(rows, err)
			}
		}
		runtime.KeepAlive(sum)
		b.ReportMetric(float64(benchRows*b.N)/b.Elapsed().Seconds(), "keys/s")
	})
}

// streamStore reads every row and calls each with its number.
func streamStore(b *testing.B, store *Store, each func(row int)) {
	rows, sum := 0, 0
	for e, err := range store.Iterate(b.Context(), core.NewKey(core.NamespaceItems), core.ScanOptions{}) {
		if err != nil {
			b.Fatal(err)
		}
		if len(e.Value) != benchValueLen {
			b.Fatal(errMissing)
		}
		sum += int(e.Key.Path[0][0]) + int(e.Value[0])
		rows++
		each(rows)
	}
	if rows != benchRows {
		b.Fatalf("%d rows", rows)
	}
	runtime.KeepAlive(sum)
}

// heapPeak follows how far the live heap grows over its start.
type heapPeak struct {
	stats runtime.MemStats
	base  uint64
	most  uint64
}

func (h *heapPeak) start() {
	runtime.GC()
	runtime.ReadMemStats(&h.stats)
	h.base = h.stats.HeapAlloc
	h.most = 1 // so that perfectly flat is still a figure
}

func (h *heapPeak) sample() {
	runtime.GC()
	runtime.ReadMemStats(&h.stats)
	if h.stats.HeapAlloc > h.base {
		h.most = max(h.most, h.stats.HeapAlloc-h.base)
	}
}

const (
	benchWatchers     = 100
	benchWatchWriters = 64
)

// BenchmarkWatch has 64 writers and 100 watchers, each of which follows one writer.
// It reports the 99th percentile of the time from the start of a transaction to the
// return of its commit, and to the moment when a watcher has its event in hand.
func BenchmarkWatch(b *testing.B) {
	store := benchStore(b)
	began := make([]atomic.Int64, b.N+1)
	start := time.Now()
	sinceStart := func() int64 { return int64(time.Since(start)) }

	ctx := b.Context()
	seen := make([][]int64, benchWatchers)
	var watching sync.WaitGroup
	for i := range benchWatchers {
		w, err := store.Watch(ctx, watchedKey(i), 0)
		if err != nil {
			b.Fatal(err)
		}
		watching.Go(func() {
			for {
				commit, err := w.Next(ctx)
				if err != nil {
					b.Error(err)
					return
				}
				now := sinceStart()
				n := binary.LittleEndian.Uint64(commit.Changes[0].Value)
				if n == 0 {
					return // the writer's last word
				}
				seen[i] = append(seen[i], now-began[n].Load())
			}
		})
	}
	put := func(writer int, n uint64) error {
		value := benchValue(n)
		binary.LittleEndian.PutUint64(value, n)
		_, err := core.PutBytes(ctx, store, watchedKey(writer).Child(benchName(n)), value)
		return err
	}
	var next atomic.Uint64
	took := make([][]int64, benchWatchWriters)
	var group sync.WaitGroup
	b.ResetTimer()
	for i := range benchWatchWriters {
		group.Go(func() {
			for n := next.Add(1); n <= uint64(b.N); n = next.Add(1) {
				t := sinceStart()
				began[n].Store(t)
				if err := put(i, n); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], sinceStart()-t)
			}
		})
	}
	group.Wait()
	b.StopTimer()
	for i := range benchWatchWriters {
		if err := put(i, 0); err != nil {
			b.Fatal(err)
		}
	}
	watching.Wait()
	events := slices.Concat(seen...)
	if len(events) < b.N {
		b.Fatalf("%d events of %d commits", len(events), b.N)
	}
	b.ReportMetric(percentile(events, 0.99), "event-p99-ns")
	b.ReportMetric(percentile(slices.Concat(took...), 0.99), "commit-p99-ns")
	b.ReportMetric(percentile(events, 0.5), "event-p50-ns")
	b.ReportMetric(percentile(slices.Concat(took...), 0.5), "commit-p50-ns")
}

// watchedKey is the prefix that watcher and writer i share.
func watchedKey(i int) core.Key {
	return core.NewKey(core.NamespaceItems, fmt.Sprintf("w%02d", i%benchWatchWriters))
}

func percentile(v []int64, p float64) float64 {
	slices.Sort(v)
	return float64(v[int(float64(len(v)-1)*p)])
}

// BenchmarkOverwrite makes 100,000 overwrites of 1,000 keys in transactions of 100
// and reports the size of the file.
func BenchmarkOverwrite(b *testing.B) {
	const keys, writes, group = 1000, 100_000, 100
	b.Run("ours", func(b *testing.B) {
		var size int64
		for b.Loop() {
			store := benchStore(b)
			for from := uint64(0); from < writes; from += group {
				_, err := core.Update(b.Context(), store, func(tx core.Txn) error {
					for n := from; n < from+group; n++ {
						if err := tx.Put(benchKey(n*7919%keys), benchValue(n)); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			size = fileSize(b, store.cfg.Path)
		}
		b.ReportMetric(float64(size), "file-B")
	})
	b.Run("raw", func(b *testing.B) {
		var size int64
		for b.Loop() {
			db := benchBolt(b)
			for from := uint64(0); from < writes; from += group {
				err := db.Update(func(tx *bolt.Tx) error {
					bucket := tx.Bucket(benchBucket)
					for n := from; n < from+group; n++ {
						if err := bucket.Put([]byte(benchName(n*7919%keys)), benchValue(n)); err != nil {
							return err
						}
					}
					return nil
				})
				if err != nil {
					b.Fatal(err)
				}
			}
			size = fileSize(b, db.Path())
		}
		b.ReportMetric(float64(size), "file-B")
	})
}

func fileSize(b *testing.B, path string) int64 {
	b.Helper()
	info, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	return info.Size()
}
