package storage

import (
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

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
