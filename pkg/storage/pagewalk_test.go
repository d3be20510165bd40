package storage

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// boltFile returns the bytes of a closed bbolt file with pages of 1 KiB: three
// levels of branches, values with overflow pages, nested, inline and empty
// buckets, and a free list.
func boltFile(t testing.TB, rows int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "raw.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: 1024, NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	fill := func(tx *bolt.Tx) error {
		for b := range 3 {
			bk, err := tx.CreateBucketIfNotExists(fmt.Appendf(nil, "bucket%d", b))
			if err != nil {
				return err
			}
			for i := range rows {
				if err := bk.Put(fmt.Appendf(nil, "key-%0100d", i*7919%rows), bytes.Repeat([]byte{byte(i)}, 50+i%5)); err != nil {
					return err
				}
			}
			if err := bk.Put([]byte("long"), bytes.Repeat([]byte("x"), 5000)); err != nil {
				return err
			}
			in, err := bk.CreateBucketIfNotExists([]byte("inline"))
			if err != nil {
				return err
			}
			if err := in.Put([]byte("k"), []byte("v")); err != nil {
				return err
			}
			if _, err := bk.CreateBucketIfNotExists([]byte("empty")); err != nil {
				return err
			}
		}
		return nil
	}
	for range 2 { // the second time frees what the first one wrote
		if err := db.Update(fill); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// walkBytes runs the whole check over a file in memory. A damaged meta page is
// an error too, as for `store check`.
func walkBytes(b []byte) (pageStats, error) {
	st, err := readMetas(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return pageStats{}, err
	}
	stats, err := walkPages(bytes.NewReader(b), st)
	if err != nil {
		return stats, err
	}
	return stats, st.damaged()
}

// readThroughBolt opens the file as bbolt does and reads every row of every
// bucket. A panic of bbolt becomes an error.
func readThroughBolt(t testing.TB, b []byte) (rows map[string]string, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("bbolt panics: %v", p)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		return nil, err
	}
	defer db.Close()
	rows = map[string]string{}
	var visit func(prefix string, bk *bolt.Bucket) error
	visit = func(prefix string, bk *bolt.Bucket) error {
		return bk.ForEach(func(k, v []byte) error {
			if sub := bk.Bucket(k); sub != nil {
				return visit(prefix+string(k)+"/", sub)
			}
			rows[prefix+string(k)] = string(v)
			return nil
		})
	}
	err = db.View(func(tx *bolt.Tx) error {
		return tx.ForEach(func(k []byte, bk *bolt.Bucket) error { return visit(string(k)+"/", bk) })
	})
	return rows, err
}

func TestPageWalkAcceptsWhatBoltWrites(t *testing.T) {
	t.Parallel()
	for _, rows := range []int{0, 1, 5, 300, 3000} {
		st, err := walkBytes(boltFile(t, rows))
		if err != nil {
			t.Fatalf("%d rows: %v", rows, err)
		}
		if want := uint64(3*(rows+3) + 3 + 3); st.Keys != want { // rows, long, two buckets; three inline rows; three root entries
			t.Errorf("%d rows: the walk met %d keys, want %d", rows, st.Keys, want)
		}
		if rows == 3000 && (st.Free == 0 || st.Branch == 0 || st.Overflow == 0 || st.Depth < 4) {
			t.Errorf("the file does not exercise everything: %+v", st)
		}
	}
}

// TestPageWalkManyCommits walks the file after each of many random commits, so
// that whatever shape bbolt's rebalancing leaves is known to be accepted.
func TestPageWalkManyCommits(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "raw.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: 1024, NoSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 150 {
		err := db.Update(func(tx *bolt.Tx) error {
			bk, err := tx.CreateBucketIfNotExists([]byte{byte('a' + rnd.IntN(3))})
			if err != nil {
				return err
			}
			for range rnd.IntN(60) {
				key := fmt.Appendf(nil, "%0*d", 1+rnd.IntN(40), rnd.IntN(400))
				if rnd.IntN(2) == 0 || round%50 > 40 {
					err = bk.Delete(key)
				} else {
					err = bk.Put(key, make([]byte, rnd.IntN(300)*rnd.IntN(10)))
				}
				if err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := walkBytes(b); err != nil {
			t.Fatalf("after commit %d: %v", round, err)
		}
	}
}

// TestPageWalkStopsWhatBoltCannotRead damages real files in three ways. What the
// walk accepts, bbolt must read without a panic, and the keys must be whole:
// only bytes of keys and values may differ, which the row checksums judge.
func TestPageWalkStopsWhatBoltCannotRead(t *testing.T) {
	t.Parallel()
	orig := boltFile(t, 100)
	want, err := readThroughBolt(t, orig)
	if err != nil {
		t.Fatal(err)
	}
	rnd := rand.New(rand.NewPCG(3, 4))
	caught, total := 0, 0
	try := func(what string, b []byte) {
		total++
		if _, err := walkBytes(b); err != nil {
			if !core.IsCode(err, core.CodeCorrupt) {
				t.Errorf("%s: %v is not corrupt", what, err)
			}
			caught++
			return
		}
		got, err := readThroughBolt(t, b)
		if err != nil {
			t.Errorf("%s: the walk accepts what bbolt cannot read: %v", what, err)
		}
		if len(got) != len(want) {
			t.Errorf("%s: %d rows, want %d", what, len(got), len(want))
		}
	}
	for range 250 {
		b, bit := bytes.Clone(orig), rnd.IntN(len(orig)*8)
		b[bit/8] ^= 1 << (bit % 8)
		try(fmt.Sprintf("bit %d of byte %d flipped", bit%8, bit/8), b)
	}
	for range 50 {
		n := rnd.IntN(len(orig))
		try(fmt.Sprintf("cut to %d bytes", n), bytes.Clone(orig[:n]))
	}
	for page := range len(orig) / 1024 {
		b := bytes.Clone(orig)
		clear(b[page*1024 : (page+1)*1024])
		try(fmt.Sprintf("page %d zeroed", page), b)
	}
	t.Logf("%d of %d damaged files refused by the walk", caught, total)
}

// FuzzPageWalk holds the walk to its purpose: it neither panics nor hangs, and
// what it accepts bbolt reads without a panic.
func FuzzPageWalk(f *testing.F) {
	f.Add(boltFile(f, 0))
	f.Add(boltFile(f, 30))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			t.Skip("larger than any seed")
		}
		b = bytes.Clone(b)
		resum(b, 1024)
		if _, err := walkBytes(b); err != nil {
			return
		}
		if _, err := readThroughBolt(t, b); err != nil {
			t.Errorf("the walk accepts what bbolt cannot read: %v", err)
		}
		if err := writeThroughBolt(t, b); err != nil {
			t.Errorf("the walk accepts what bbolt cannot write to: %v", err)
		}
	})
}

// writeThroughBolt commits one more row to every bucket of the file.
func writeThroughBolt(t testing.TB, b []byte) (err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "damaged.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("bbolt panics: %v", p)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		return err
	}
	defer db.Close()
	return db.Update(func(tx *bolt.Tx) error {
		return tx.ForEach(func(_ []byte, bk *bolt.Bucket) error { return bk.Put([]byte("one more"), []byte("row")) })
	})
}

// BenchmarkPageWalk walks a file of about 100 MB.
func BenchmarkPageWalk(b *testing.B) {
	path := filepath.Join(b.TempDir(), "raw.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{NoSync: true})
	if err != nil {
		b.Fatal(err)
	}
	for batch := range 25 {
		err := db.Update(func(tx *bolt.Tx) error {
			bk, err := tx.CreateBucketIfNotExists([]byte("rows"))
			if err != nil {
				return err
			}
			for i := range 10000 {
				if err := bk.Put(fmt.Appendf(nil, "%0100d", batch*10000+i), make([]byte, 256)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		b.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	for b.Loop() {
		st, err := readMetas(f, info.Size())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := walkPages(f, st); err != nil {
			b.Fatal(err)
		}
	}
}
