package storage

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	opRestore = "storage: restore"
	opCompact = "storage: compact"
)

// compactTxn is how many bytes a compaction writes between two commits.
const compactTxn = 8 << 20

// Restore makes a new store at dst from the copy in the file backup. The copy is
// verified completely, and the new store's epoch is raised, so that whatever a
// coordinator on the lost store still hands out is refused. It never replaces a
// file: where dst exists the error is [core.CodeAlreadyExists].
func Restore(ctx context.Context, backup, dst string) (epoch uint64, err error) {
	if err := mustNotExist(opRestore, dst); err != nil {
		return 0, err
	}
	src, err := Open(ctx, Config{Path: backup, ReadOnly: true})
	if err != nil {
		return 0, core.WithOp(opRestore, err)
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	tmp, err := prepare(dst, func(f *os.File) error {
		return errors.Join(src.copyTo(ctx, f), f.Sync(), f.Close())
	})
	if err != nil {
		return 0, core.WithOp(opRestore, err)
	}
	if epoch, err = raiseEpochIn(ctx, tmp); err == nil {
		err = publishNew(opRestore, tmp, dst)
	}
	return epoch, discard(tmp, err)
}

// raiseEpochIn raises the epoch in a closed store.
func raiseEpochIn(ctx context.Context, path string) (epoch uint64, err error) {
	s, err := Open(ctx, Config{Path: path})
	if err != nil {
		return 0, core.WithOp(opRestore, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return RaiseEpoch(ctx, s)
}

// Compacted tells what a compaction gained.
type Compacted struct {
	Before int64 `json:"before"` // bytes of the file
	After  int64 `json:"after"`
}

// Compact writes the store src without its free pages to dst, which must not
// exist, or in place when dst and src are the same name: the old file is replaced
// only by a complete one that was verified. src must not be open.
func Compact(ctx context.Context, src, dst string) (c Compacted, err error) {
	inPlace := filepath.Clean(src) == filepath.Clean(dst)
	if !inPlace {
		if err := mustNotExist(opCompact, dst); err != nil {
			return c, err
		}
	} else if _, err := os.Stat(src); err != nil {
		return c, core.WithOp(opCompact, openError(src, err))
	}
	s, err := Open(ctx, Config{Path: src, ReadOnly: !inPlace})
	if err != nil {
		return c, core.WithOp(opCompact, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if c.Before, err = s.Size(); err != nil {
		return c, err
	}
	tmp, err := prepare(dst, func(f *os.File) error { return s.compactTo(ctx, f) })
	if err != nil {
		return c, core.WithOp(opCompact, err)
	}
	if c.After, err = verifyCopy(ctx, tmp, s.Revision()); err != nil {
		return c, discard(tmp, err)
	}
	if inPlace {
		err = fileError(opCompact, errors.Join(os.Rename(tmp, dst), syncDir(filepath.Dir(dst))))
	} else {
		err = publishNew(opCompact, tmp, dst)
	}
	return c, discard(tmp, err)
}

// compactTo writes the rows to a bbolt file in f and closes it. A last commit
// without a change lets both meta pages lead to them.
func (s *Store) compactTo(ctx context.Context, f *os.File) error {
	return guarded(opCompact, func() error {
		o := boltOptions(f, Config{})
		o.NoSync = true // synced once, at the end
		db, err := bolt.Open(f.Name(), 0o600, o)
		if err != nil {
			return errors.Join(fileError(opCompact, err), f.Close())
		}
		err = bolt.Compact(db, s.db, compactTxn)
		if err == nil {
			err = db.Update(func(*bolt.Tx) error { return ctx.Err() })
		}
		if err == nil {
			err = db.Sync()
		}
		return fileError(opCompact, errors.Join(err, db.Close()))
	})
}

// verifyCopy checks a closed store completely and returns its size.
func verifyCopy(ctx context.Context, path string, revision uint64) (size int64, err error) {
	s, err := Open(ctx, Config{Path: path, ReadOnly: true})
	if err != nil {
		return 0, core.WithOp(opCompact, err)
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if s.Revision() != revision {
		return 0, core.Errorf(opCompact, core.CodeInternal, "the copy is at revision %d instead of %d", s.Revision(), revision)
	}
	return s.Size()
}

// prepare makes a temporary file beside dst and lets fill write and close it. The
// file is gone when fill fails.
func prepare(dst string, fill func(f *os.File) error) (tmp string, err error) {
	if err := os.MkdirAll(filepath.Dir(dst), 0o700); err != nil {
		return "", openError(dst, err)
	}
	f, err := createTemp(dst)
	if err != nil {
		return "", err
	}
	if err := fill(f); err != nil {
		return "", discard(f.Name(), err)
	}
	return f.Name(), nil
}

func mustNotExist(op, path string) error {
	_, err := os.Lstat(path)
	switch {
	case err == nil:
		return core.Errorf(op, core.CodeAlreadyExists, "%s exists and is not replaced: move it away, or name another file", path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return core.WithOp(op, openError(path, err))
}

// publishNew gives tmp its name, which must still be free.
func publishNew(op, tmp, dst string) error {
	err := publish(tmp, dst)
	if errors.Is(err, fs.ErrExist) {
		return mustNotExist(op, dst)
	}
	return fileError(op, err)
}
