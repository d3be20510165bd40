package cloudlocal_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
	"github.com/rollout-substrate/rollout/pkg/storage"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// reopenable makes a fixture of a queue on a store that outlives it.
func reopenable(t *testing.T, cfg cloudlocal.QueueConfig) *coretest.QueueFixture {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	f := &coretest.QueueFixture{Storage: cfg.Storage}
	open := func() error {
		q, err := cloudlocal.OpenQueue(context.Background(), cfg)
		if err != nil {
			return err
		}
		f.Queue = q
		return nil
	}
	f.Reopen = func() error {
		if err := f.Queue.Close(); err != nil {
			return err
		}
		return open()
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(f.Queue.Close(), cfg.Storage.Close()); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestQueueOnMemory(t *testing.T) {
	coretest.RunQueue(t, func(t *testing.T) *coretest.QueueFixture {
		return reopenable(t, cloudlocal.QueueConfig{Storage: memstore.New(memstore.Options{}), Window: 16})
	}, coretest.QueueOptions{})
}

// TestQueueOnDisk keeps every payload but the shortest in an object store.
func TestQueueOnDisk(t *testing.T) {
	coretest.RunQueue(t, func(t *testing.T) *coretest.QueueFixture {
		dir := t.TempDir()
		objects, err := cloudlocal.OpenObjects(t.Context(), cloudlocal.ObjectsConfig{Root: filepath.Join(dir, "objects")})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := objects.Close(); err != nil {
				t.Error(err)
			}
		})
		store, err := storage.Open(t.Context(), storage.Config{Path: filepath.Join(dir, "rollout.db")})
		if err != nil {
			t.Fatal(err)
		}
		return reopenable(t, cloudlocal.QueueConfig{Storage: store, Objects: objects, Window: 16, InlineBytes: 8})
	}, coretest.QueueOptions{})
}

// TestAnOperatorSeesPayloadsOfTheObjectStore looks at large items that are ready,
// leased and dead.
func TestAnOperatorSeesPayloadsOfTheObjectStore(t *testing.T) {
	objects, err := cloudlocal.OpenObjects(t.Context(), cloudlocal.ObjectsConfig{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	f := reopenable(t, cloudlocal.QueueConfig{Storage: memstore.New(memstore.Options{}), Objects: objects, InlineBytes: 8})
	t.Cleanup(func() {
		if err := objects.Close(); err != nil {
			t.Error(err)
		}
	})
	large := func(s string) []byte { return []byte("a payload that is large, number " + s) }
	for _, s := range []string{"1", "2"} {
		if _, err := core.EnqueueOne(t.Context(), f.Queue, "q", core.NewItem{Payload: large(s), MaxAttempts: 1}); err != nil {
			t.Fatal(err)
		}
	}
	got, err := f.Queue.Dequeue(t.Context(), core.DequeueOptions{Queues: []string{"q"}, Owner: core.WorkerID{1}, Epoch: 1, MaxItems: 1})
	if err != nil || len(got) != 1 || string(got[0].Payload) != string(large("1")) {
		t.Fatalf("delivered %+v, %v", got, err)
	}
	if _, err := core.NackOne(t.Context(), f.Queue, core.Nack{Lease: got[0].Lease, Kind: core.NackFailed}); err != nil {
		t.Fatal(err)
	}
	ready, err := f.Queue.Peek(t.Context(), "q", 0, 10)
	if err != nil || len(ready) != 1 || string(ready[0].Payload) != string(large("2")) {
		t.Errorf("peek shows %+v, %v", ready, err)
	}
	dead, err := f.Queue.Dead(t.Context(), "q", 0, 10)
	if err != nil || len(dead) != 1 || string(dead[0].Payload) != string(large("1")) {
		t.Errorf("dead shows %+v, %v", dead, err)
	}
	// A payload that is gone makes its item dead, and those behind it go on.
	if err := objects.Delete(t.Context(), core.SumContent(large("2"))); err != nil {
		t.Fatal(err)
	}
	if _, err := core.EnqueueOne(t.Context(), f.Queue, "q", core.NewItem{Payload: large("3")}); err != nil {
		t.Fatal(err)
	}
	got, err = f.Queue.Dequeue(t.Context(), core.DequeueOptions{Queues: []string{"q"}, Owner: core.WorkerID{1}, Epoch: 1, MaxItems: 1})
	if err != nil || len(got) != 1 || string(got[0].Payload) != string(large("3")) {
		t.Fatalf("behind a payload that is gone comes %+v, %v", got, err)
	}
	dead, err = f.Queue.Dead(t.Context(), "q", dead[0].ID, 10)
	if err != nil || len(dead) != 1 || len(dead[0].Payload) != 0 || len(dead[0].History) != 1 || dead[0].History[0].Code != core.CodeNotFound {
		t.Errorf("the item whose payload is gone is %+v, %v", dead, err)
	}
}
