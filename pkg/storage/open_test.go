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
