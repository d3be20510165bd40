package storage

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

var writeGolden = flag.Bool("golden", false, "write testdata/v<format>.db for the current format, where there is none")

// goldenRows are the rows of every golden file, in the order in which they were
// committed.
func goldenRows() []core.Entry {
	run := core.RunID{0: 1, 7: 0xFF, 15: 2}
	rows := []core.Entry{
		{Key: core.NewKey(core.NamespaceMeta, "epoch"), Value: []byte{7}},
		{Key: core.NewKey(core.NamespaceMeta), Value: []byte("the path may be empty")},
		{Key: core.NewKey(core.NamespaceItems, "job", "").InRun(run), Value: []byte{}},
		{Key: core.NewKey(core.NamespaceItems, "job", "\x00\x01\xff", "é").InRun(run), Value: bytes.Repeat([]byte("long "), 4000)},
		{Key: core.NewKey("custom_9", "x"), Value: []byte("any namespace")},
	}
	for i := range 200 {
		rows = append(rows, core.Entry{Key: core.NewKey(core.NamespaceQueue, "q", UintSegment(uint64(i*i))), Value: fmt.Appendf(nil, "message %d", i)})
	}
	for i := range rows {
		rows[i].Revision = uint64(i + 1)
	}
	return rows
}

// TestR32GoldenFilesOpen reads a file of every format version that was ever
// released, each written by the program of its time, and writes to it.
func TestR32GoldenFilesOpen(t *testing.T) {
	current := filepath.Join("testdata", fmt.Sprintf("v%d.db", FormatVersion))
	if *writeGolden {
		makeGolden(t, current)
	}
	if _, err := os.Stat(current); err != nil {
		t.Fatalf("there is no golden file of the current format; make it with go test ./pkg/storage -run TestR32 -golden: %v", err)
	}
	files, err := filepath.Glob(filepath.Join("testdata", "v*.db"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(t.TempDir(), "old.db")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			readGolden(t, Config{Path: path, ReadOnly: true})
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, data) {
				t.Errorf("reading changed the file: %v", err)
			}
			readGolden(t, Config{Path: path})
		})
	}
}

// readGolden opens a golden file and compares every row; a store that may be
// written to takes one more.
func readGolden(t *testing.T, cfg Config) {
	t.Helper()
	ctx := context.Background()
	s, err := Open(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	rows := goldenRows()
	for _, want := range rows {
		got, err := core.Get(ctx, s, want.Key)
		if err != nil || !bytes.Equal(got.Value, want.Value) || got.Revision != want.Revision {
			t.Errorf("row %s: %d bytes at revision %d (%v), want %d bytes at %d", want.Key, len(got.Value), got.Revision, err, len(want.Value), want.Revision)
		}
	}
	r, err := s.Check(ctx)
	if err != nil || r.Rows != uint64(len(rows)) || r.Revision != uint64(len(rows)) {
		t.Errorf("the check says %+v, %v", r, err)
	}
	if !cfg.ReadOnly {
		if rev, err := core.PutBytes(ctx, s, core.NewKey(core.NamespaceMeta, "more"), nil); err != nil || rev != uint64(len(rows)+1) {
			t.Errorf("one more row: revision %d, %v", rev, err)
		}
	}
}

// makeGolden writes the file of the current format. It never replaces one: what
// was released stays as it is.
func makeGolden(t *testing.T, path string) {
	t.Helper()
	if _, err := os.Stat(path); err == nil {
		t.Fatalf("%s exists; a golden file is written once", path)
	}
	ctx := context.Background()
	s, err := Open(ctx, Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range goldenRows() {
		if rev, err := core.PutBytes(ctx, s, row.Key, row.Value); err != nil || rev != row.Revision {
			t.Fatalf("%s: revision %d, %v", row.Key, rev, err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
