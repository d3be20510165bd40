package cloudlocal

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
)

func openAt(t *testing.T, root string) *Objects {
	t.Helper()
	o, err := OpenObjects(context.Background(), ObjectsConfig{Root: root, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

// flip changes one bit of a file.
func flip(name string, bit int) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	b[bit/8%len(b)] ^= 1 << (bit % 8)
	return os.WriteFile(name, b, 0o600)
}

func TestObjectsOnDisk(t *testing.T) {
	coretest.RunObjectStore(t, func(t *testing.T) *coretest.ObjectStoreFixture {
		before := goleak.IgnoreCurrent()
		t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after the store is closed
		root := filepath.Join(t.TempDir(), "a", "objects")
		f := &coretest.ObjectStoreFixture{Store: openAt(t, root)}
		f.Reopen = func() error {
			if err := f.Store.Close(); err != nil {
				return err
			}
			f.Store = openAt(t, root)
			return nil
		}
		f.Damage = func(id core.ContentID) error { return flip(filepath.Join(root, blobName(id)), 3) }
		return f
	}, coretest.ObjectStoreOptions{})
}

// TestObjectsWithoutOpenat2 takes the way of other systems and old kernels.
func TestObjectsWithoutOpenat2(t *testing.T) {
	coretest.RunObjectStore(t, func(t *testing.T) *coretest.ObjectStoreFixture {
		root := t.TempDir()
		f := &coretest.ObjectStoreFixture{Store: openPlainAt(t, root)}
		f.Reopen = func() error {
			if err := f.Store.Close(); err != nil {
				return err
			}
			f.Store = openPlainAt(t, root)
			return nil
		}
		f.Damage = func(id core.ContentID) error { return flip(filepath.Join(root, blobName(id)), 3) }
		return f
	}, coretest.ObjectStoreOptions{})
}

// openPlainAt opens a store that resolves every name with os.Root.
func openPlainAt(t *testing.T, root string) *Objects {
	t.Helper()
	disk, err := openDisk(root)
	if err != nil {
		t.Fatal(err)
	}
	disk.plain = true
	o, err := OpenObjects(context.Background(), ObjectsConfig{fs: disk, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func TestObjectsInMemory(t *testing.T) {
	coretest.RunObjectStore(t, func(t *testing.T) *coretest.ObjectStoreFixture {
		mem := newMemFS()
		f := &coretest.ObjectStoreFixture{Store: openOn(t, mem)}
		f.Reopen = func() error {
			if err := f.Store.Close(); err != nil {
				return err
			}
			f.Store = openOn(t, mem)
			return nil
		}
		f.Damage = func(id core.ContentID) error {
			mem.mu.Lock()
			defer mem.mu.Unlock()
			n, err := mem.find(blobName(id))
			if err == nil {
				n.data[0] ^= 1
			}
			return err
		}
		t.Cleanup(func() {
			if err := f.Store.Close(); err != nil {
				t.Error(err)
			}
		})
		return f
	}, coretest.ObjectStoreOptions{})
}
