package cloudlocal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// diskFS is a directory of the machine. Every name goes through an [os.Root],
// or through the kernel's own form of it where that is one call cheaper.
type diskFS struct {
	root *os.Root
	dir  *os.File // the root directory, kept open for the kernel's look-ups
	fd   int      // of dir

	whole   sync.Once // guards wholeOK
	wholeOK bool      // the file system can be synced as a whole

	plain bool // set in tests: as on a kernel without a call of its own
}

var _ fileSystem = (*diskFS)(nil)

// openDisk opens the directory and makes it, mode 0700, when it is not there.
func openDisk(path string) (*diskFS, error) {
	if err := makeDurable(path); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return &diskFS{root: root, dir: dir, fd: int(dir.Fd())}, nil
}

// makeDurable makes path and the directories above it that are missing, and
// syncs each directory that received a name.
func makeDurable(path string) error {
	err := os.Mkdir(path, 0o700)
	switch parent := filepath.Dir(path); {
	case errors.Is(err, fs.ErrExist):
		info, err := os.Stat(path)
		if err == nil && !info.IsDir() {
			err = fmt.Errorf("%s is not a directory", path)
		}
		return err
	case errors.Is(err, fs.ErrNotExist) && parent != path:
		if err := makeDurable(parent); err != nil {
			return err
		}
		return makeDurable(path)
	case err != nil:
		return err
	default:
		return syncPath(parent)
	}
}

func syncPath(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// openToOthers reports whether others than the owner may enter the root.
func (d *diskFS) openToOthers() bool {
	info, err := d.dir.Stat()
	return err == nil && info.Mode().Perm()&0o077 != 0
}

func (d *diskFS) Create(name string) (writeFile, error) {
	f, err := d.createBeneath(name)
	if err != nil {
		return nil, err
	}
	return diskWriter{f}, nil
}

func (d *diskFS) Open(name string) (readFile, error) {
	f, err := d.openBeneath(name)
	if err != nil {
		return nil, err
	}
	return diskReader{f}, nil
}

func (d *diskFS) Mkdir(name string) error { return d.root.Mkdir(name, 0o700) }

func (d *diskFS) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := d.root.Open(name)
	if err != nil {
		return nil, err
	}
	entries, err := f.ReadDir(-1)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

func (d *diskFS) Remove(name string) error { return d.root.Remove(name) }

func (d *diskFS) Touch(name string, t time.Time) error { return d.root.Chtimes(name, time.Time{}, t) }

func (d *diskFS) OpenDir(name string) (directory, error) {
	f, err := d.openDirBeneath(name)
	if err != nil {
		return nil, err
	}
	return diskDir{f}, nil
}

func (d *diskFS) Free() (int64, error) { return freeBytes(d.dir) }

func (d *diskFS) Close() error { return errors.Join(d.dir.Close(), d.root.Close()) }

func (d *diskFS) createPlain(name string) (*os.File, error) {
	return d.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
}

// openDirPlain opens a directory. Without O_NONBLOCK a pipe planted under the name
// would hold the caller.
func (d *diskFS) openDirPlain(name string) (*os.File, error) {
	return d.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// openPlain is openBeneath where the kernel has no call of its own for it.
func (d *diskFS) openPlain(name string) (*os.File, error) {
	info, err := d.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, notPlain(name)
	}
	return d.root.Open(name)
}

func (d *diskFS) readPlain(name string, buf []byte) (int, error) {
	f, err := d.openPlain(name)
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(f, buf)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, errors.Join(err, f.Close())
}

func (d *diskFS) statPlain(name string) (fileInfo, error) {
	info, err := d.root.Lstat(name)
	if err != nil {
		return fileInfo{}, err
	}
	return infoOf(info), nil
}

func infoOf(info fs.FileInfo) fileInfo {
	return fileInfo{size: info.Size(), modTime: info.ModTime(), regular: info.Mode().IsRegular()}
}

func notPlain(name string) error {
	return core.Errorf("objects: open file", core.CodeCorrupt, "%s is not a plain file", name)
}

type diskWriter struct{ *os.File }

func (w diskWriter) StartSync(off, length int64) { startSync(w.File, off, length) }

func (w diskWriter) Stat() (fileInfo, error) {
	info, err := w.File.Stat()
	if err != nil {
		return fileInfo{}, err
	}
	return infoOf(info), nil
}

type diskReader struct{ *os.File }

func (r diskReader) Stat() (fileInfo, error) {
	info, err := r.File.Stat()
	if err != nil {
		return fileInfo{}, err
	}
	return infoOf(info), nil
}

type diskDir struct{ f *os.File }

func (d diskDir) Sync() error            { return d.f.Sync() }
func (d diskDir) TryLock() (bool, error) { return tryLock(d.f) }
func (d diskDir) Close() error           { return d.f.Close() }
