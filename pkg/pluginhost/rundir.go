package pluginhost

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// runDir is the private directory of one sidecar. Who holds its lock owns it: the
// host and the launcher share one open file, so the lock is free exactly when both
// are gone, and a sweep removes only what is free.
type runDir struct {
	path   string
	socket string   // where sockets go: path, or a shorter directory elsewhere
	link   string   // names socket for the sweep, when that lies elsewhere
	lock   *os.File // the directory itself, locked
}

// maxSocketDir leaves room in the 107 bytes of a socket's address for the names
// that go-plugin adds on both sides.
const maxSocketDir = 64

// shortDirPrefix begins the names of socket directories outside the data directory.
const shortDirPrefix = "rollout-"

// newRunDir makes a locked 0700 directory below root.
func newRunDir(root string) (_ *runDir, err error) {
	const op = "sidecar: make run directory"
	unlock, err := lockRoot(root)
	if err != nil {
		return nil, core.Wrap(op, core.CodeUnavailable, err)
	}
	defer unlock()
	name := make([]byte, 4)
	if _, err := rand.Read(name); err != nil {
		return nil, core.Wrap(op, core.CodeInternal, err)
	}
	d := &runDir{path: filepath.Join(root, hex.EncodeToString(name))}
	d.socket = d.path
	if err := os.Mkdir(d.path, 0o700); err != nil {
		return nil, core.Wrap(op, core.CodeUnavailable, err)
	}
	if d.lock, err = lockDir(d.path); err == nil && len(d.path) > maxSocketDir {
		err = d.makeShort()
	}
	if err != nil {
		return nil, core.Wrap(op, core.CodeUnavailable, errors.Join(err, d.remove()))
	}
	return d, nil
}

// makeShort gives the sockets a directory whose path is short enough.
func (d *runDir) makeShort() error {
	short, err := os.MkdirTemp("/tmp", shortDirPrefix)
	if err != nil {
		return err
	}
	d.socket, d.link = short, d.path+".sock"
	return os.Symlink(short, d.link)
}

// all returns every directory and file that goes with the sidecar.
func (d *runDir) all() []string {
	if d.link == "" {
		return []string{d.path}
	}
	return []string{d.path, d.socket, d.link}
}

// remove deletes everything and lets the lock go. It may be called more than once.
func (d *runDir) remove() error {
	var errs []error
	for _, path := range d.all() {
		errs = append(errs, os.RemoveAll(path))
	}
	if d.lock != nil {
		if err := d.lock.Close(); !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// lockRoot makes root if needed and keeps other processes from making or sweeping
// directories in it until the returned function is called.
func lockRoot(root string) (func(), error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	if err := flock(f, syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil // nothing was written
}

// lockDir opens and locks a directory that nobody else holds.
func lockDir(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			return err
		}
	}
}

// sweep removes the run directories below root that no host and no launcher
// holds any more.
func sweep(root string) error {
	unlock, err := lockRoot(root)
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		path := filepath.Join(root, e.Name())
		lock, err := lockDir(path)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, sweepOne(path), lock.Close())
	}
	return errors.Join(errs...)
}

// sweepOne removes one free directory, with the short one that a link beside it
// names.
func sweepOne(path string) error {
	link := path + ".sock"
	var errs []error
	if target, err := os.Readlink(link); err == nil {
		if isShortDir(target) {
			errs = append(errs, os.RemoveAll(target))
		}
		errs = append(errs, os.Remove(link))
	}
	return errors.Join(append(errs, os.RemoveAll(path))...)
}

// isShortDir reports whether a path is a socket directory of ours and not
// something that a link was bent to.
func isShortDir(path string) bool {
	if filepath.Dir(path) != "/tmp" || !strings.HasPrefix(filepath.Base(path), shortDirPrefix) {
		return false
	}
	st, err := os.Lstat(path)
	if err != nil || !st.IsDir() || st.Mode().Perm() != 0o700 {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && int(sys.Uid) == os.Geteuid()
}

// privateDir makes path as a directory that only this user can enter, and refuses
// one that is anything else.
func privateDir(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
		return fmt.Errorf("%s belongs to uid %d; give it to this user or name another directory", path, sys.Uid)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return os.Chmod(path, 0o700)
	}
	return nil
}
