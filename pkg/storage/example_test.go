package storage_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// A store is one file. What a commit has acknowledged is there at the next start.
func ExampleOpen() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "store")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cfg := storage.Config{Path: filepath.Join(dir, "rollout.db")}

	store, err := storage.Open(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	if _, err := core.PutBytes(ctx, store, core.NewKey("notes", "a"), []byte("kept")); err != nil {
		log.Fatal(err)
	}
	if err := store.Close(); err != nil {
		log.Fatal(err)
	}

	store, err = storage.Open(ctx, cfg)
	if err != nil {
		log.Fatal(err)
	}
	defer store.Close()
	e, err := core.Get(ctx, store, core.NewKey("notes", "a"))
	fmt.Println(string(e.Value), e.Revision, err)
	// Output: kept 1 <nil>
}
