package storage

import (
	"bytes"
	"errors"
	"runtime"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

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

// BenchmarkScan streams 100,000 rows. The raw side moves a cursor over them and
// looks at keys and values where they lie; copied also copies them, which is the
// least that it takes to use them behind the transaction.
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
		streamBolt(b, func(k, v []byte) int { return int(k[0]) + int(v[0]) })
	})
	b.Run("copied", func(b *testing.B) {
		streamBolt(b, func(k, v []byte) int { return len(bytes.Clone(k)) + len(bytes.Clone(v)) })
	})
}

// streamBolt moves a cursor over every row.
func streamBolt(b *testing.B, use func(k, v []byte) int) {
	db := benchBolt(b)
	fillBolt(b, db)
	sum := 0
	for b.Loop() {
		rows := 0
		err := db.View(func(tx *bolt.Tx) error {
			c := tx.Bucket(benchBucket).Cursor()
			for k, v := c.First(); k != nil; k, v = c.Next() {
				if len(v) != benchValueLen {
					return errMissing
				}
				sum += use(k, v)
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
