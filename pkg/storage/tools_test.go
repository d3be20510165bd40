package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

func TestBackupWhileCommitsGoOn(t *testing.T) {
	ctx := t.Context()
	s := openStore(t, nil)
	for i := range 100 {
		if _, err := core.PutBytes(ctx, s, core.NewKey("kit", UintSegment(uint64(i))), make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
	}
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		for i := 100; ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if _, err := core.PutBytes(context.Background(), s, core.NewKey("kit", UintSegment(uint64(i))), make([]byte, 1000)); err != nil {
				done <- err
				return
			}
		}
	}()
	var buf bytes.Buffer
	n, err := s.Backup(ctx, &buf)
	close(stop)
	if err := errors.Join(err, <-done); err != nil || n != int64(buf.Len()) {
		t.Fatal(n, buf.Len(), err)
	}
	path := filepath.Join(t.TempDir(), "copy.db")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := openStore(t, func(c *Config) { c.Path = path })
	r, err := c.Check(ctx)
	if err != nil || r.Rows < 100 || r.Rows != r.Revision {
		t.Fatalf("%+v, %v", r, err)
	}
	if names, err := filepath.Glob(filepath.Join(filepath.Dir(s.Path()), "*")); err != nil || len(names) != 1 {
		t.Errorf("a backup leaves %v (%v)", names, err)
	}
}

// failingWriter refuses everything beyond its first bytes.
type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errors.New("the other side hung up")
	}
	return len(p), nil
}

func TestBackupEndsWithItsWriterOrContext(t *testing.T) {
	s := openStore(t, nil)
	_, err := s.Backup(t.Context(), &failingWriter{left: 100})
	wantCode(t, err, core.CodeUnavailable, "hung up")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s.Backup(ctx, &bytes.Buffer{})
	wantCode(t, err, core.CodeCanceled)
}

func TestRestoreRaisesTheEpochAndReplacesNothing(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	path, copied, dst := filepath.Join(dir, "a.db"), filepath.Join(dir, "copy.db"), filepath.Join(dir, "new", "b.db")
	s := openStore(t, func(c *Config) { c.Path = path })
	future := uint64(time.Now().Unix()) + 1000
	if _, err := PutOne(ctx, s, EpochKey(), future); err != nil {
		t.Fatal(err)
	}
	var buf bytes.Buffer
	if _, err := s.Backup(ctx, &buf); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(copied, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	epoch, err := Restore(ctx, copied, dst)
	if err != nil || epoch != future+1 {
		t.Fatal(epoch, err)
	}
	restored := openStore(t, func(c *Config) { c.Path = dst })
	if got, err := Epoch(ctx, restored); err != nil || got != epoch {
		t.Fatal(got, err)
	}
	_, err = Restore(ctx, copied, dst)
	wantCode(t, err, core.CodeAlreadyExists, dst)
	_, err = Restore(ctx, filepath.Join(dir, "none.db"), filepath.Join(dir, "c.db"))
	wantCode(t, err, core.CodeNotFound, "none.db")
	if err := os.WriteFile(copied, buf.Bytes()[:buf.Len()/2], 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Restore(ctx, copied, filepath.Join(dir, "c.db"))
	wantCode(t, err, core.CodeCorrupt)
	if _, err := os.Stat(filepath.Join(dir, "c.db")); err == nil {
		t.Error("a failed restore leaves a store")
	}
}

func TestCompactKeepsEveryRow(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	path := filepath.Join(dir, "a.db")
	makeStore(t, path)
	s := openStore(t, func(c *Config) { c.Path = path })
	for i := range 50 {
		if _, err := core.PutBytes(ctx, s, core.NewKey("big", fmt.Sprint(i)), make([]byte, 50_000)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 50 {
		if _, err := core.DeleteKey(ctx, s, core.NewKey("big", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Compact(ctx, path, filepath.Join(dir, "b.db"))
	wantCode(t, err, core.CodeBusy, fmt.Sprintf("process %d", os.Getpid()))
	mustClose(t, s)
	for _, dst := range []string{filepath.Join(dir, "b.db"), path} {
		c, err := Compact(ctx, path, dst)
		if err != nil || c.After >= c.Before {
			t.Fatalf("%+v, %v", c, err)
		}
		if !paired(t, dst) {
			t.Error("a compacted store has unlike meta pages")
		}
		after, err := Open(ctx, Config{Path: dst})
		if err != nil {
			t.Fatal(err)
		}
		if r, err := after.Check(ctx); err != nil || r.Rows != 600 || r.Revision != 101 || r.FileBytes != c.After {
			t.Errorf("%+v, %v", r, err)
		}
		mustClose(t, after)
	}
	_, err = Compact(ctx, path, filepath.Join(dir, "b.db"))
	wantCode(t, err, core.CodeAlreadyExists, "b.db")
	_, err = Compact(ctx, filepath.Join(dir, "none.db"), filepath.Join(dir, "none.db"))
	wantCode(t, err, core.CodeNotFound)
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("compacting leaves %v (%v)", names, err)
	}
}

func TestRaiseEpochOnlyRises(t *testing.T) {
	ctx := t.Context()
	s := memstore.New(memstore.Options{})
	defer mustClose(t, s)
	now := uint64(time.Now().Unix())
	first, err := RaiseEpoch(ctx, s)
	if err != nil || first < now {
		t.Fatal(first, err)
	}
	second, err := RaiseEpoch(ctx, s)
	if err != nil || second <= first {
		t.Fatal(second, err)
	}
}

func TestRowsWalkEveryRun(t *testing.T) {
	ctx := t.Context()
	s := openStore(t, nil)
	for _, run := range []core.RunID{{2}, {}, {1}} {
		for _, ns := range []core.Namespace{"kit", "other"} {
			if _, err := core.PutBytes(ctx, s, core.NewKey(ns, "a").InRun(run), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	var runs []core.RunID
	for e, err := range s.Rows(ctx, "kit") {
		if err != nil {
			t.Fatal(err)
		}
		runs = append(runs, e.Key.Run)
	}
	if len(runs) != 3 || !runs[0].IsZero() || runs[1] != (core.RunID{1}) {
		t.Errorf("found %v", runs)
	}
	if all, err := s.Namespaces(ctx); err != nil || len(all) != 2 || all[1] != "other" {
		t.Error(all, err)
	}
	for _, err := range s.Rows(ctx, "No!") {
		wantCode(t, err, core.CodeInvalidArgument)
	}
}
