package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// makeStore writes a closed store with rows in two namespaces and a run.
func makeStore(t testing.TB, path string) {
	t.Helper()
	s, err := Open(context.Background(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	_, err = core.Update(t.Context(), s, func(tx core.Txn) error {
		var errs []error
		for i := range 300 {
			errs = append(errs,
				tx.Put(core.NewKey("jobs", fmt.Sprintf("%03d", i)), fmt.Appendf(nil, "job %d", i)),
				tx.Put(core.NewKey("items", fmt.Sprint(i)).InRun(core.RunID{1}), fmt.Appendf(nil, "item %d", i)))
		}
		return errors.Join(errs...)
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
}

func wantCode(t *testing.T, err error, code core.Code, texts ...string) {
	t.Helper()
	if !core.IsCode(err, code) {
		t.Fatalf("got %v (code %v), want code %v", err, core.CodeOf(err), code)
	}
	for _, s := range texts {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q does not say %q", err, s)
		}
	}
}

func mustClose(t testing.TB, c interface{ Close() error }) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestConfigSaysEverythingThatIsWrong(t *testing.T) {
	_, err := Open(t.Context(), Config{MaxBytes: 5, IdleCommit: -1, QueueDepth: -1, HistoryEvents: -1, HistoryBytes: -1})
	wantCode(t, err, core.CodeConfigInvalid, "Path", "MaxBytes", "IdleCommit", "QueueDepth", "HistoryEvents", "HistoryBytes")
}

func TestFileAndDirectoryArePrivate(t *testing.T) {
	s := openStore(t, nil)
	for path, want := range map[string]os.FileMode{s.Path(): 0o600, filepath.Dir(s.Path()): 0o700 | os.ModeDir} {
		info, err := os.Stat(path)
		if err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, want %v (%v)", path, info.Mode(), want, err)
		}
	}
	mustClose(t, s)
	if err := os.Chmod(s.Path(), 0o644); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, func(c *Config) { c.Path = s.Path() })
	if info, err := os.Stat(s.Path()); err != nil || info.Mode() != 0o600 {
		t.Errorf("a file that others may read keeps mode %v (%v)", info.Mode(), err)
	}
}

func TestSecondOpenerIsToldWhoHoldsTheFile(t *testing.T) {
	s := openStore(t, nil)
	for _, readOnly := range []bool{false, true} {
		_, err := Open(t.Context(), Config{Path: s.Path(), LockTimeout: time.Millisecond, ReadOnly: readOnly})
		wantCode(t, err, core.CodeBusy, s.Path(), fmt.Sprintf("process %d", os.Getpid()))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Open(ctx, Config{Path: s.Path(), LockTimeout: time.Hour})
	wantCode(t, err, core.CodeCanceled)
}

func TestSecondOpenerWaitsForTheFirst(t *testing.T) {
	s := openStore(t, nil)
	opened := make(chan error, 1)
	go func() {
		second, err := Open(context.Background(), Config{Path: s.Path(), LockTimeout: time.Minute})
		if err == nil {
			err = second.Close()
		}
		opened <- err
	}()
	mustClose(t, s)
	if err := <-opened; err != nil {
		t.Fatal(err)
	}
}

func TestReadersShareAFileThatNobodyWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.db")
	_, err := Open(t.Context(), Config{Path: path, ReadOnly: true})
	wantCode(t, err, core.CodeNotFound, path)
	makeStore(t, path)
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	one := openStore(t, func(c *Config) { c.Path, c.ReadOnly = path, true })
	two := openStore(t, func(c *Config) { c.Path, c.ReadOnly = path, true })
	for _, s := range []*Store{one, two} {
		if rows, err := s.Scan(t.Context(), core.NewKey("jobs"), core.ScanOptions{}); err != nil || len(rows) != 300 {
			t.Fatal(len(rows), err)
		}
		r, err := s.Check(t.Context())
		if err != nil || r.Rows != 600 || r.Revision != 1 || len(r.Namespaces) != 2 || r.Pages == 0 || r.FileBytes == 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		_, err = core.PutBytes(t.Context(), s, core.NewKey("jobs", "x"), nil)
		wantCode(t, err, core.CodeUnsupported, "reading")
	}
	mustClose(t, one)
	mustClose(t, two)
	after, err := os.ReadFile(path)
	if err != nil || string(after) != string(before) {
		t.Fatalf("reading changed the file (%v)", err)
	}
}

func TestFilesThatAreNoStoreAreRefusedAndLeftAlone(t *testing.T) {
	dir := t.TempDir()
	foreign := filepath.Join(dir, "bolt.db")
	db, err := bolt.Open(foreign, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx *bolt.Tx) error { _, err := tx.CreateBucket([]byte("theirs")); return err }); err != nil {
		t.Fatal(err)
	}
	mustClose(t, db)
	newer := filepath.Join(dir, "newer.db")
	makeStore(t, newer)
	tamper(t, newer, func(own *bolt.Bucket, _ *bolt.Tx) error { return own.Put(keyFormat, encodeFormat(FormatVersion+1)) })
	for name, c := range map[string]struct {
		content []byte
		path    string
		code    core.Code
		says    string
	}{
		"empty":          {content: []byte{}, code: core.CodeCorrupt, says: "empty"},
		"text":           {content: []byte("hello"), code: core.CodeCorrupt, says: "no store"},
		"long text":      {content: []byte(strings.Repeat("SQLite format 3\x00", 2000)), code: core.CodeCorrupt, says: "no store"},
		"another's file": {path: foreign, code: core.CodeCorrupt, says: "without the mark of a store"},
		"newer format":   {path: newer, code: core.CodeVersionMismatch, says: "newer one"},
	} {
		t.Run(name, func(t *testing.T) {
			path := c.path
			if path == "" {
				path = filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))
				if err := os.WriteFile(path, c.content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, readOnly := range []bool{true, false} {
				_, err = Open(t.Context(), Config{Path: path, ReadOnly: readOnly, RepairMeta: true})
				wantCode(t, err, c.code, c.says, path)
			}
			if after, err := os.ReadFile(path); err != nil || string(after) != string(before) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
}

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
