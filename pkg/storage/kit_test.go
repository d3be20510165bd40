package storage

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core/coretest"
)

const kitHistory = 400

// reopening returns a fixture over a file of its own.
func reopening(t testing.TB, change func(*Config)) *coretest.StorageFixture {
	t.Helper()
	cfg := Config{Path: filepath.Join(t.TempDir(), "rollout.db"), HistoryEvents: kitHistory}
	if change != nil {
		change(&cfg)
	}
	open := func() *Store {
		s, err := Open(context.Background(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	f := &coretest.StorageFixture{Storage: s}
	f.Reopen = func() error {
		if err := s.Close(); err != nil {
			return err
		}
		s = open()
		f.Storage = s
		return nil
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestConformance(t *testing.T) {
	coretest.RunStorage(t, func(t *testing.T) *coretest.StorageFixture {
		t.Parallel() // most of it waits for the disk
		return reopening(t, nil)
	}, coretest.StorageOptions{HistoryEvents: kitHistory})
}
