package memstore_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/rollout-substrate/rollout/pkg/core/coretest"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const kitHistory = 400

func newFixture() *coretest.StorageFixture {
	return &coretest.StorageFixture{Storage: memstore.New(memstore.Options{HistoryEvents: kitHistory})}
}

func TestConformance(t *testing.T) {
	coretest.RunStorage(t, func(t *testing.T) *coretest.StorageFixture {
		f := newFixture()
		t.Cleanup(func() {
			if err := f.Storage.Close(); err != nil {
				t.Error(err)
			}
		})
		return f
	}, coretest.StorageOptions{NoReopen: true, HistoryEvents: kitHistory})
}
