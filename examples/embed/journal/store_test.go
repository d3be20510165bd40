package journal

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
)

// kitHistory is what the kit's slow watchers overrun.
const kitHistory = 400

func TestConformance(t *testing.T) {
	coretest.RunStorage(t, func(t *testing.T) *coretest.StorageFixture {
		cfg := Config{Path: filepath.Join(t.TempDir(), "journal"), History: kitHistory}
		s, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		f := &coretest.StorageFixture{Storage: s}
		f.Reopen = func() error {
			if err := f.Storage.Close(); err != nil {
				return err
			}
			s, err := Open(cfg)
			f.Storage = s
			return err
		}
		t.Cleanup(func() {
			if err := f.Storage.Close(); err != nil {
				t.Error(err)
			}
		})
		return f
	}, coretest.StorageOptions{HistoryEvents: kitHistory})
}

// A process that dies while it writes leaves half a line, which was never acknowledged.
func TestATornLineIsCutOffAndDamageIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	s, err := Open(Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	key := core.NewKey("notes", "a")
	for _, v := range []string{"one", "two"} {
		if _, err := core.PutBytes(t.Context(), s, key, []byte(v)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	reopened := func(text []byte) (string, error) {
		t.Helper()
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(Config{Path: path})
		if err != nil {
			return "", err
		}
		defer s.Close()
		e, err := core.Get(t.Context(), s, key)
		return string(e.Value), err
	}
	if v, err := reopened(whole[:len(whole)-3]); v != "one" || err != nil {
		t.Errorf("half a line: %q, %v", v, err)
	}
	damaged := append([]byte{}, whole...)
	damaged[20] ^= 1
	if _, err := reopened(damaged); !core.IsCode(err, core.CodeCorrupt) {
		t.Errorf("damage before the end: %v", err)
	}
}
