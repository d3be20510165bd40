package storage

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// failing returns a hook that fails commits while it is set, as bbolt does.
func failing(err *error) func(tx *bolt.Tx) error {
	return func(tx *bolt.Tx) error {
		if *err == nil {
			return tx.Commit()
		}
		return errors.Join(*err, tx.Rollback())
	}
}

func TestAFullDiskFailsOneCommitAndNotTheNext(t *testing.T) {
	var disk error
	s := openStore(t, func(c *Config) { c.hooks.commit = failing(&disk) })
	ctx := t.Context()
	key := core.NewKey("kit", "a")
	for i, full := range []error{
		&fs.PathError{Op: "write", Path: "x", Err: unix.ENOSPC}, &fs.PathError{Op: "write", Path: "x", Err: unix.EDQUOT},
		&fs.PathError{Op: "write", Path: "x", Err: unix.EFBIG}, fmt.Errorf("file resize error: %s", unix.ENOSPC),
	} {
		disk = nil
		if _, err := core.PutBytes(ctx, s, key, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
		disk = full
		_, err := core.PutBytes(ctx, s, key, []byte("lost"))
		wantCode(t, err, core.CodeExhausted)
		e, err := core.Get(ctx, s, key)
		if err != nil || string(e.Value) != fmt.Sprint(i) || s.Revision() != uint64(i+1) {
			t.Fatalf("%q at %d, %v", e.Value, s.Revision(), err)
		}
	}
	disk = nil
}

func TestAFailedSyncStopsTheStoreUntilItIsOpenedAgain(t *testing.T) {
	for name, failure := range map[string]error{
		"sync": unix.EIO, "sync without room": unix.ENOSPC, "write": &fs.PathError{Op: "write", Path: "x", Err: unix.EIO},
		"read-only": &fs.PathError{Op: "write", Path: "x", Err: unix.EROFS},
	} {
		t.Run(name, func(t *testing.T) {
			var disk error
			s := openStore(t, func(c *Config) { c.hooks.commit = failing(&disk) })
			ctx := t.Context()
			key := core.NewKey("kit", "a")
			if _, err := core.PutBytes(ctx, s, key, []byte("1")); err != nil {
				t.Fatal(err)
			}
			disk = failure
			_, err := core.PutBytes(ctx, s, key, []byte("2"))
			wantCode(t, err, core.CodeBroken)
			disk = nil
			_, err = core.PutBytes(ctx, s, key, []byte("3"))
			wantCode(t, err, core.CodeBroken, "open it again")
			e, err := core.Get(ctx, s, key)
			if err != nil || string(e.Value) != "1" {
				t.Errorf("reads go on: %q, %v", e.Value, err)
			}
			mustClose(t, s)
			s = openStore(t, func(c *Config) { c.Path = s.Path() })
			if _, err := core.PutBytes(ctx, s, key, []byte("4")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestACommitWhoseLastSyncFailedIsHidden lets bbolt write everything before it
// fails, so that its own readers would see the commit.
func TestACommitWhoseLastSyncFailedIsHidden(t *testing.T) {
	var fail bool
	s := openStore(t, func(c *Config) {
		c.hooks.commit = func(tx *bolt.Tx) error {
			err := tx.Commit()
			if fail {
				return unix.EIO
			}
			return err
		}
	})
	ctx := t.Context()
	key := core.NewKey("kit", "a")
	for i := range 3 {
		if _, err := core.PutBytes(ctx, s, key, fmt.Append(nil, i)); err != nil {
			t.Fatal(err)
		}
	}
	fail = true
	_, err := core.PutBytes(ctx, s, key, []byte("hidden"))
	wantCode(t, err, core.CodeBroken)
	check := func(s *Store) {
		t.Helper()
		e, err := core.Get(ctx, s, key)
		if err != nil || string(e.Value) != "2" || s.Revision() != 3 {
			t.Errorf("%q at revision %d, %v", e.Value, s.Revision(), err)
		}
	}
	check(s)
	mustClose(t, s)
	check(openStore(t, func(c *Config) { c.Path = s.Path() }))
}

func TestMaxBytesBoundsTheFileAndLeavesRoomToDelete(t *testing.T) {
	const limit = 1 << 20
	s := openStore(t, func(c *Config) { c.MaxBytes = limit })
	ctx := t.Context()
	value := make([]byte, 12_000)
	for round := range 2 {
		n := 0
		for ; ; n++ {
			_, err := core.PutBytes(ctx, s, core.NewKey("kit", fmt.Sprint(n)), value)
			if err != nil {
				wantCode(t, err, core.CodeExhausted)
				break
			}
		}
		if size, err := s.Size(); err != nil || size > limit || n < 30 {
			t.Fatalf("round %d: %d rows in %d bytes (%v)", round, n, size, err)
		}
		if _, err := core.Get(ctx, s, core.NewKey("kit", "0")); err != nil {
			t.Fatal(err)
		}
		for i := range n {
			if _, err := core.DeleteKey(ctx, s, core.NewKey("kit", fmt.Sprint(i))); err != nil {
				t.Fatalf("round %d: delete %d of %d: %v", round, i, n, err)
			}
		}
	}
}
