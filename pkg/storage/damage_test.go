package storage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// tamper changes a closed store behind its back, as damage that keeps bbolt's own
// structure whole would.
func tamper(t testing.TB, path string, change func(own *bolt.Bucket, tx *bolt.Tx) error) {
	t.Helper()
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bolt.Tx) error { return change(tx.Bucket(bucketOwn), tx) })
	err = errors.Join(err, db.Update(func(*bolt.Tx) error { return nil }), db.Close())
	if err != nil {
		t.Fatal(err)
	}
}

// TestVanishedRowsAndOldRowsAreFound has damage that no row's own checksum shows.
func TestVanishedRowsAndOldRowsAreFound(t *testing.T) {
	row := func(tx *bolt.Tx) (b *bolt.Bucket, k, v []byte) {
		b = tx.Bucket([]byte("jobs"))
		k, v = b.Cursor().First()
		return b, append([]byte{}, k...), append([]byte{}, v...)
	}
	for name, change := range map[string]func(own *bolt.Bucket, tx *bolt.Tx) error{
		"row gone":       func(_ *bolt.Bucket, tx *bolt.Tx) error { b, k, _ := row(tx); return b.Delete(k) },
		"namespace gone": func(_ *bolt.Bucket, tx *bolt.Tx) error { return tx.DeleteBucket([]byte("jobs")) },
		"row of the past": func(_ *bolt.Bucket, tx *bolt.Tx) error {
			b, k, _ := row(tx)
			old, _ := appendEnvelope(nil, envelopeSeed("jobs"), k, 1, []byte("another value"))
			return b.Put(k, old)
		},
		"row of the future": func(_ *bolt.Bucket, tx *bolt.Tx) error {
			b, k, _ := row(tx)
			v, _ := appendEnvelope(nil, envelopeSeed("jobs"), k, 99, []byte("v"))
			return b.Put(k, v)
		},
		"row elsewhere": func(_ *bolt.Bucket, tx *bolt.Tx) error {
			b, k, v := row(tx)
			return errors.Join(b.Delete(k), b.Put(append(k, 0), v))
		},
		"value damaged": func(_ *bolt.Bucket, tx *bolt.Tx) error {
			b, k, v := row(tx)
			v[len(v)-1] ^= 1
			return b.Put(k, v)
		},
		"row added": func(_ *bolt.Bucket, tx *bolt.Tx) error {
			b, k, _ := row(tx)
			k = append(k, 'x', 0)
			v, _ := appendEnvelope(nil, envelopeSeed("jobs"), k, 1, []byte("v"))
			return b.Put(k, v)
		},
		"key is none":         func(_ *bolt.Bucket, tx *bolt.Tx) error { b, _, v := row(tx); return b.Put([]byte{9}, v) },
		"row is a bucket":     func(_ *bolt.Bucket, tx *bolt.Tx) error { b, k, _ := row(tx); return nestBucket(b, k) },
		"unknown namespace":   func(_ *bolt.Bucket, tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("No!")); return err },
		"own bucket gone":     func(_ *bolt.Bucket, tx *bolt.Tx) error { return tx.DeleteBucket(bucketOwn) },
		"head gone":           func(own *bolt.Bucket, _ *bolt.Tx) error { return own.Delete(keyHead) },
		"head damaged":        func(own *bolt.Bucket, _ *bolt.Tx) error { return own.Put(keyHead, []byte("head")) },
		"format gone":         func(own *bolt.Bucket, _ *bolt.Tx) error { return own.Delete(keyFormat) },
		"format damaged":      func(own *bolt.Bucket, _ *bolt.Tx) error { return own.Put(keyFormat, []byte("rollout storage 9")) },
		"count gone":          func(own *bolt.Bucket, _ *bolt.Tx) error { return own.Delete(groupKey("jobs", []byte{0})) },
		"count damaged":       func(own *bolt.Bucket, _ *bolt.Tx) error { return own.Put(groupKey("jobs", []byte{0}), []byte("ten")) },
		"namespace and count": goneTogether,
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.db")
			makeStore(t, path)
			tamper(t, path, change)
			for _, readOnly := range []bool{true, false} {
				_, err := Open(t.Context(), Config{Path: path, ReadOnly: readOnly, RepairMeta: true})
				wantCode(t, err, core.CodeCorrupt, path)
			}
		})
	}
}

func nestBucket(b *bolt.Bucket, k []byte) error {
	if err := b.Delete(k); err != nil {
		return err
	}
	_, err := b.CreateBucket(k)
	return err
}

func goneTogether(own *bolt.Bucket, tx *bolt.Tx) error {
	return errors.Join(own.Delete(groupKey("jobs", []byte{0})), tx.DeleteBucket([]byte("jobs")))
}

// TestWholeScansFindVanishedRows damages an open store.
func TestWholeScansFindVanishedRows(t *testing.T) {
	s := openStore(t, nil)
	ctx := t.Context()
	for i := range 5 {
		if _, err := core.PutBytes(ctx, s, core.NewKey("jobs", fmt.Sprint(i)), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	err := s.db.Update(func(tx *bolt.Tx) error {
		b := tx.Bucket([]byte("jobs"))
		k, _ := b.Cursor().First()
		return b.Delete(k)
	})
	if err != nil {
		t.Fatal(err)
	}
	s.settle(^uint64(0), nil) // that commit was none of ours
	_, err = s.Scan(ctx, core.NewKey("jobs"), core.ScanOptions{})
	wantCode(t, err, core.CodeCorrupt, "5 rows")
	_, err = s.Scan(ctx, core.NewKey("jobs"), core.ScanOptions{Reverse: true})
	wantCode(t, err, core.CodeCorrupt, "5 rows")
	var last error
	for _, last = range s.Iterate(ctx, core.NewKey("jobs"), core.ScanOptions{}) {
	}
	wantCode(t, last, core.CodeCorrupt, "5 rows")
	for _, last = range s.Rows(ctx, "jobs") {
	}
	wantCode(t, last, core.CodeCorrupt, "5 rows")
	_, err = s.Check(ctx)
	wantCode(t, err, core.CodeCorrupt, "5 rows")
	if rows, err := s.Scan(ctx, core.NewKey("jobs"), core.ScanOptions{Limit: 2}); err != nil || len(rows) != 2 {
		t.Errorf("a part cannot be counted: %v, %v", rows, err)
	}
}

func TestOneDamagedMetaPage(t *testing.T) {
	for page := range 2 {
		path := filepath.Join(t.TempDir(), "x.db")
		makeStore(t, path)
		damage := func() {
			f, err := os.OpenFile(path, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt([]byte{0xff, 0xff}, int64(page*os.Getpagesize()+pageHeaderLen+40))
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
		}
		damage()
		for _, c := range []Config{{ReadOnly: true}, {ReadOnly: true, RepairMeta: true}, {}} {
			c.Path = path
			_, err := Open(t.Context(), c)
			wantCode(t, err, core.CodeCorrupt, fmt.Sprintf("meta page %d", page))
		}
		s, err := Open(t.Context(), Config{Path: path, RepairMeta: true})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := s.Check(t.Context()); err != nil || r.Rows != 600 {
			t.Errorf("after damage to page %d: %d rows, %v", page, r.Rows, err)
		}
		mustClose(t, s)
		s, err = Open(t.Context(), Config{Path: path, ReadOnly: true})
		if err != nil {
			t.Fatalf("page %d was not written again: %v", page, err)
		}
		mustClose(t, s)
	}
}

func TestLeftOverTemporaryFilesGo(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.db")
	left := filepath.Join(dir, ".x.db.new-123")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	makeStore(t, path)
	names, err := os.ReadDir(dir)
	if err != nil || len(names) != 1 || names[0].Name() != "x.db" {
		t.Errorf("found %v (%v)", names, err)
	}
}
