package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestHeldByNamesTheWriterAndNobodyElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rollout.db")
	if _, err := HeldBy(path); !core.IsCode(err, core.CodeNotFound) {
		t.Fatalf("without a file: %v", err)
	}
	s, err := Open(t.Context(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := HeldBy(path); err != nil || got != fmt.Sprintf("process %d", os.Getpid()) {
		t.Errorf("while it is open: %q, %v", got, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := HeldBy(path); err != nil || got != "" {
		t.Errorf("after it was closed: %q, %v", got, err)
	}
}
