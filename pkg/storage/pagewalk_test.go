package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
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
	path := filepath.Join(t.TempDir(), "raw.db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: 1024, NoSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rnd := rand.New(rand.NewPCG(1, 2))
	for round := range 300 {
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
	for range 600 {
		b, bit := bytes.Clone(orig), rnd.IntN(len(orig)*8)
		b[bit/8] ^= 1 << (bit % 8)
		try(fmt.Sprintf("bit %d of byte %d flipped", bit%8, bit/8), b)
	}
	for range 60 {
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

// resum makes the checksums of both meta pages right again, so that damage
// behind them is reached.
func resum(b []byte, pageSize int) {
	for at := 0; at <= pageSize && at+pageHeaderLen+metaLen <= len(b); at += pageSize {
		m := b[at+pageHeaderLen:]
		h := fnv.New64a()
		h.Write(m[:metaSumAt])
		binary.NativeEndian.PutUint64(m[metaSumAt:], h.Sum64())
	}
}

func TestPageWalkNamesThePage(t *testing.T) {
	orig := boltFile(t, 300)
	st, err := readMetas(bytes.NewReader(orig), int64(len(orig)))
	if err != nil {
		t.Fatal(err)
	}
	ne := binary.NativeEndian
	m := st.pages[st.active]
	root, free := int(m.root)*1024, int(m.freelist)*1024
	meta := st.active*1024 + pageHeaderLen
	// The root bucket's tree has one leaf with three buckets; the first one's root is a branch.
	firstBucket := root + pageHeaderLen + int(ne.Uint32(orig[root+pageHeaderLen+4:])) + len("bucket0")
	branch := int(ne.Uint64(orig[firstBucket:])) * 1024
	if decodeHeader(orig[branch:]).flags != flagBranch {
		t.Fatal("the test file has no branch where the test expects one")
	}
	tests := []struct {
		name   string
		damage func(b []byte)
		want   string
	}{
		{"page id", func(b []byte) { b[branch]++ }, "calls itself page"},
		{"page kind", func(b []byte) { b[branch+8] = flagMeta }, "neither a branch nor a leaf"},
		{"branch cycle", func(b []byte) { ne.PutUint64(b[branch+pageHeaderLen+8:], uint64(branch/1024)) }, "reached twice"},
		{"child is a meta page", func(b []byte) { ne.PutUint64(b[branch+pageHeaderLen+8:], 1) }, "outside"},
		{"child far away", func(b []byte) { ne.PutUint64(b[branch+pageHeaderLen+8:], 1<<60) }, "outside"},
		{"count", func(b []byte) { ne.PutUint16(b[branch+10:], 60000) }, "do not fit"},
		{"no children", func(b []byte) { ne.PutUint16(b[branch+10:], 0) }, "without children"},
		{"overflow", func(b []byte) { ne.PutUint32(b[branch+12:], 1<<30) }, "outside"},
		{"position", func(b []byte) { b[branch+pageHeaderLen]++ }, "points to byte"},
		{"key size", func(b []byte) { ne.PutUint32(b[branch+pageHeaderLen+4:], 1<<31) }, "has a key of"},
		{"key order", func(b []byte) { b[branch+pageHeaderLen+int(ne.Uint32(b[branch+pageHeaderLen:]))] = 0xFF }, "above"},
		{"bucket root", func(b []byte) { ne.PutUint64(b[firstBucket:], m.root) }, "reached twice"},
		{"element flags", func(b []byte) { b[root+pageHeaderLen] = 2 }, "flags 0x2"},
		{"free list kind", func(b []byte) { b[free+8] = flagLeaf }, "not a free list"},
		{"free list count", func(b []byte) { ne.PutUint16(b[free+10:], 0xFFFE) }, "do not fit"},
		{"free list id in use", func(b []byte) { ne.PutUint64(b[free+pageHeaderLen:], uint64(branch/1024)) }, "listed as free"},
		{"free list shorter", func(b []byte) { ne.PutUint16(b[free+10:], ne.Uint16(b[free+10:])-1) }, "neither used nor free"},
		{"root outside", func(b []byte) { ne.PutUint64(b[meta+16:], 1<<40); resum(b, 1024) }, "root page"},
		{"free list outside", func(b []byte) { ne.PutUint64(b[meta+32:], 1<<40); resum(b, 1024) }, "free list page"},
		{"pages beyond the file", func(b []byte) { ne.PutUint64(b[meta+40:], 1<<40); resum(b, 1024) }, "pages in use"},
		{"meta checksum", func(b []byte) { b[meta+20]++ }, "checksum"},
		{"meta version", func(b []byte) { b[meta+4] = 9 }, "format version 9"},
		{"meta page size", func(b []byte) { ne.PutUint32(b[meta+8:], 3000); resum(b, 1024) }, "page size"},
		{"meta header", func(b []byte) { b[meta-pageHeaderLen]++ }, "header says"},
		{"meta copied over the other", func(b []byte) {
			copy(b[(1-st.active)*1024:][:1024], b[st.active*1024:][:1024])
		}, "header says"},
		{"older meta of another time", func(b []byte) {
			other := (1-st.active)*1024 + pageHeaderLen
			ne.PutUint64(b[other+48:], m.txid-3)
			resum(b, 1024)
		}, "not the one before"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := bytes.Clone(orig)
			tt.damage(b)
			_, err := walkBytes(b)
			if !core.IsCode(err, core.CodeCorrupt) {
				t.Fatalf("got %v, want corrupt", err)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q does not say %q", err, tt.want)
			}
		})
	}
}

func TestReadMetasJudgesEachPage(t *testing.T) {
	orig := boltFile(t, 5)
	sound, err := readMetas(bytes.NewReader(orig), int64(len(orig)))
	if err != nil || sound.damaged() != nil {
		t.Fatalf("a sound file: %v, %v", err, sound.damaged())
	}
	for page := range 2 {
		b := bytes.Clone(orig)
		clear(b[page*1024 : (page+1)*1024])
		st, err := readMetas(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatalf("meta page %d zeroed: %v", page, err)
		}
		if st.active != 1-page || st.pages[page].err == nil || st.pages[1-page].err != nil || st.fatal != nil {
			t.Errorf("meta page %d zeroed: %+v", page, st)
		}
	}
	for name, b := range map[string][]byte{
		"text":        bytes.Repeat([]byte("not a database\n"), 1000),
		"short":       []byte("x"),
		"empty":       nil,
		"zeros":       make([]byte, 1<<16),
		"both zeroed": append(make([]byte, 2048), orig[2048:]...),
	} {
		st, err := readMetas(bytes.NewReader(b), int64(len(b)))
		if !core.IsCode(err, core.CodeCorrupt) || st.active != -1 || !st.foreign() {
			t.Errorf("%s: active %d, foreign %v, %v", name, st.active, st.foreign(), err)
		}
	}
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
