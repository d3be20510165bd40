package memstore_test

import (
	"context"
	"errors"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

func TestCommitHookFailsTheCommitAndStoresNothing(t *testing.T) {
	ctx := t.Context()
	boom := errors.New("boom")
	var fail error
	s := memstore.New(memstore.Options{CommitHook: func() error { return fail }})
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	key := core.NewKey("jobs", "a")
	if _, err := core.PutBytes(ctx, s, key, []byte("1")); err != nil {
		t.Fatal(err)
	}
	fail = boom
	if _, err := core.PutBytes(ctx, s, key, []byte("2")); !errors.Is(err, boom) {
		t.Fatalf("the hook's error is returned, got %v", err)
	}
	e, err := core.Get(context.Background(), s, key)
	if err != nil || string(e.Value) != "1" || e.Revision != 1 {
		t.Fatalf("a failed commit stores nothing, got %q at %d, %v", e.Value, e.Revision, err)
	}
}
