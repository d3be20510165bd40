package storage

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// bbolt writes the meta pages of a copy in one order whatever the number of the
// transaction is, so copies of even and of odd ones are tried.
func TestEveryBackupOpens(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	s, err := Open(ctx, Config{Path: filepath.Join(dir, "s.db")})
	if err != nil {
		t.Fatal(err)
	}
	key := core.NewKey(core.NamespaceMeta, "row")
	for i := range 6 {
		want := []byte{byte(i)}
		if _, err := core.PutBytes(ctx, s, key, want); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if _, err := s.Backup(ctx, &b); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "copy.db")
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, readOnly := range []bool{true, false} {
			c, err := Open(ctx, Config{Path: path, ReadOnly: readOnly})
			if err != nil {
				t.Fatalf("copy %d: %v", i, err)
			}
			e, err := core.Get(ctx, c, key)
			if err != nil || !bytes.Equal(e.Value, want) {
				t.Errorf("copy %d holds %v, %v", i, e.Value, err)
			}
			if err := c.Close(); err != nil {
				t.Errorf("copy %d: %v", i, err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
