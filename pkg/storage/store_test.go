package storage

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// openStore opens a store in a directory of its own and closes it at the end.
func openStore(t testing.TB, change func(*Config)) *Store {
	t.Helper()
	cfg := Config{Path: filepath.Join(t.TempDir(), "data", "rollout.db")}
	if change != nil {
		change(&cfg)
	}
	s, err := Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestRowsSurviveReopening(t *testing.T) {
	ctx := t.Context()
	s := openStore(t, nil)
	key := core.NewKey("jobs", "a", "b")
	rev, err := core.PutBytes(ctx, s, key, []byte("v"))
	if err != nil || rev != 1 {
		t.Fatal(rev, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s, err = Open(ctx, Config{Path: s.Path()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	e, err := core.Get(ctx, s, key)
	if err != nil || string(e.Value) != "v" || e.Revision != 1 || s.Revision() != 1 {
		t.Fatalf("got %q at %d, store at %d, %v", e.Value, e.Revision, s.Revision(), err)
	}
	rows, err := s.Scan(ctx, core.NewKey("jobs"), core.ScanOptions{})
	if err != nil || len(rows) != 1 || !rows[0].Key.Equal(key) {
		t.Fatal(rows, err)
	}
}
