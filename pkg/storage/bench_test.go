package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

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
