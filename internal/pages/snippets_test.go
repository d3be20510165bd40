package main

import (
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// The Go blocks of the documentation are lines of this file, so that they compile and
// run.

func TestStorageSnippet(t *testing.T) {
	t.Chdir(t.TempDir())
	ctx := t.Context()
	if err := os.Mkdir("data", 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := storage.Open(ctx, storage.Config{Path: "data/rollout.db", RepairMeta: true})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	rev, err := core.Update(ctx, s, func(tx core.Txn) error {
		epoch, err := storage.Epoch(ctx, tx) // a typed read of one row
		if err != nil {
			return err
		}
		return storage.Put(tx, storage.EpochKey(), epoch+1)
	})
	if err != nil || rev == 0 {
		t.Errorf("revision %d, %v", rev, err)
	}
}

func TestObjectsSnippet(t *testing.T) {
	t.Chdir(t.TempDir())
	ctx := t.Context()
	file := strings.NewReader("{}\n")
	s, err := cloudlocal.OpenObjects(ctx, cloudlocal.ObjectsConfig{Root: "data/object-store"})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, s)
	info, err := s.Put(ctx, file, core.PutOptions{ContentType: "application/jsonl"})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.Get(ctx, info.ID) // verified: io.EOF comes only after the bytes are those of the id
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, r)
	if b, err := io.ReadAll(r); err != nil || string(b) != "{}\n" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestSecretsSnippet(t *testing.T) {
	ctx := t.Context()
	t.Setenv("ROLLOUT_SECRET_HF_TOKEN", "hush")
	s, err := cloudlocal.NewSecrets(cloudlocal.SecretsConfig{Allow: []string{"HF_TOKEN"}})
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.Get(ctx, "HF_TOKEN") // ROLLOUT_SECRET_HF_TOKEN, else the file HF_TOKEN of Dir
	if err != nil || string(token.Reveal()) != "hush" {
		t.Errorf("%v, %v", token, err)
	}
}

func TestQueueSnippet(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	store, err := storage.Open(ctx, storage.Config{Path: dir + "/rollout.db"})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, store)
	objects, err := cloudlocal.OpenObjects(ctx, cloudlocal.ObjectsConfig{Root: dir + "/objects"})
	if err != nil {
		t.Fatal(err)
	}
	defer closed(t, objects)
	if err := score(ctx, store, objects, []byte(`{"x":1}`), core.NewWorkerID(), core.NewKey(core.NamespaceResults, "7"), []byte("1")); err != nil {
		t.Error(err)
	}
}

// score takes one line through a queue, with its result.
func score(ctx context.Context, store core.Storage, objects core.ObjectStore, line []byte, me core.WorkerID, result core.Key, score []byte) error {
	q, err := cloudlocal.OpenQueue(ctx, cloudlocal.QueueConfig{Storage: store, Objects: objects})
	if err != nil {
		return err
	}
	_, err = core.EnqueueOne(ctx, q, "scores", core.NewItem{Payload: line, IdempotencyKey: "line 7"})
	if err != nil {
		return err
	}
	items, err := q.Dequeue(ctx, core.DequeueOptions{Queues: []string{"scores"}, Owner: me, Epoch: 3, MaxItems: 8, Wait: time.Minute})
	if err != nil {
		return err
	}
	err = core.AckOne(ctx, q, items[0].Lease, core.Write{Key: result, Value: score}) // one transaction
	if err != nil {
		return err
	}
	return q.Close()
}

func closed(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
