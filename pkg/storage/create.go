package storage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// tempPattern returns the pattern of the names under which files of a store are
// prepared, in its own directory.
func tempPattern(path string) string { return "." + filepath.Base(path) + ".new-*" }

// ensureFile makes the store's file unless something is there already. The name
// appears once the file is complete and synced, so that a crash never leaves half
// of one.
func ensureFile(path string) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return openError(path, err)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return openError(dir, err)
	}
	if err := sweep(path); err != nil {
		return err
	}
	tmp, err := writeEmpty(path)
	if err != nil {
		return err
	}
	err = publish(tmp, path)
	if errors.Is(err, fs.ErrExist) {
		return discard(tmp, nil) // another process was faster; its file is as good
	}
	return discard(tmp, openErrorOrNil(path, err))
}

func openErrorOrNil(path string, err error) error {
	if err == nil {
		return nil
	}
	return openError(path, err)
}

// discard removes a temporary file that is no longer needed and adds to err what
// goes wrong with that.
func discard(tmp string, err error) error {
	if rerr := os.Remove(tmp); rerr != nil && !errors.Is(rerr, fs.ErrNotExist) {
		return errors.Join(err, openError(tmp, rerr))
	}
	return err
}

// sweep removes what earlier processes were preparing when they ended. A file
// still locked belongs to a living one.
func sweep(path string) error {
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), tempPattern(path)))
	if err != nil {
		return nil // the name has no pattern's meaning: nothing was prepared under it
	}
	for _, tmp := range left {
		f, err := tryLocked(tmp, false)
		if err != nil {
			continue // in use, or gone
		}
		if err := errors.Join(discard(tmp, nil), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// createTemp makes a locked temporary file beside path, with mode 0600.
func createTemp(path string) (*os.File, error) {
	f, err := os.CreateTemp(filepath.Dir(path), tempPattern(path))
	if err != nil {
		return nil, openError(path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, discard(f.Name(), errors.Join(openError(path, err), f.Close()))
	}
	return f, nil
}

// writeEmpty prepares an empty store and returns its temporary name. Two commits
// are made, so that both meta pages lead to it.
func writeEmpty(path string) (string, error) {
	f, err := createTemp(path)
	if err != nil {
		return "", err
	}
	tmp := f.Name()
	db, err := bolt.Open(tmp, 0o600, boltOptions(f, Config{}))
	if err != nil {
		return "", discard(tmp, commitError(err))
	}
	err = db.Update(func(tx *bolt.Tx) error {
		own, err := tx.CreateBucket(bucketOwn)
		if err != nil {
			return err
		}
		return errors.Join(own.Put(keyFormat, encodeFormat(FormatVersion)), own.Put(keyHead, head{}.encode()))
	})
	if err == nil {
		err = db.Update(func(*bolt.Tx) error { return nil })
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return "", discard(tmp, commitError(err))
	}
	return tmp, nil
}

// publish gives a complete, synced file its name, which must be free.
func publish(tmp, path string) error {
	if err := renameToFree(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes names in dir, and the name of dir itself, survive a power cut.
func syncDir(dir string) error {
	for _, d := range []string{dir, filepath.Dir(dir)} {
		f, err := os.Open(d)
		if err != nil {
			if errors.Is(err, fs.ErrPermission) && d != dir {
				continue // not ours, so we did not make dir in it either
			}
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// boltOptions returns how bbolt opens f, which is locked already.
func boltOptions(f *os.File, c Config) *bolt.Options {
	return &bolt.Options{
		FreelistType: bolt.FreelistMapType,
		ReadOnly:     c.ReadOnly,
		NoSync:       c.hooks.noSync,
		NoStatistics: true, // its lock is shared by all readers
		OpenFile:     func(string, int, os.FileMode) (*os.File, error) { return f, nil },
	}
}

// commitError gives an error of bbolt its code.
func commitError(err error) error {
	if isFull(err) {
		return core.Wrap(opCommit, core.CodeExhausted, err)
	}
	return core.Wrap(opCommit, core.CodeBroken, err)
}
