package cloudlocal_test

import (
	"context"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

func TestQueueOnMemory(t *testing.T) {
	coretest.RunQueue(t, func(t *testing.T) *coretest.QueueFixture {
		store := memstore.New(memstore.Options{})
		f := &coretest.QueueFixture{Storage: store}
		open := func() error {
			q, err := cloudlocal.OpenQueue(context.Background(), cloudlocal.QueueConfig{Storage: store, Window: 16})
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
			if err := f.Queue.Close(); err != nil {
				t.Error(err)
			}
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		})
		return f
	}, coretest.QueueOptions{})
}
