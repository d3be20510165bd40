package cloudlocal

import (
	"errors"
	"io/fs"
	"sync"
	"syscall"
	"time"
)

// faultFS counts every call of a file system and can make one of them fail, or
// all from one on, as a machine that loses power does.
type faultFS struct {
	fileSystem
	skipDirSync  bool // a planted bug: directories are not synced
	skipFileSync bool // a planted bug: files are not synced

	mu    sync.Mutex
	calls int   // guarded by mu
	at    int   // guarded by mu: the call that fails; 0: none
	from  bool  // guarded by mu: every call behind it fails too
	err   error // guarded by mu: with what
	fired string
}

var errPowerCut = errors.New("the power is cut")

// arm makes the n-th call from here fail.
func (f *faultFS) arm(n int, err error, from bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls, f.at, f.err, f.from, f.fired = 0, n, err, from, ""
}

// hit returns the error of the call that is due, and what it was.
func (f *faultFS) firedAt() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fired
}

func (f *faultFS) call(op, name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.at == 0 || f.calls < f.at || f.calls > f.at && !f.from {
		return nil
	}
	if f.fired == "" {
		f.fired = op + " " + name
	}
	return &fs.PathError{Op: op, Path: name, Err: f.err}
}

func (f *faultFS) Create(name string) (writeFile, error) {
	if err := f.call("create", name); err != nil {
		return nil, err
	}
	w, err := f.fileSystem.Create(name)
	return &faultWriter{w, f, name}, err
}

func (f *faultFS) Open(name string) (readFile, error) {
	if err := f.call("open", name); err != nil {
		return nil, err
	}
	r, err := f.fileSystem.Open(name)
	if err != nil {
		return nil, err
	}
	return &faultReader{r, f, name}, nil
}

func (f *faultFS) ReadInto(name string, buf []byte) (int, error) {
	if err := f.call("read", name); err != nil {
		return 0, err
	}
	return f.fileSystem.ReadInto(name, buf)
}

func (f *faultFS) Stat(name string) (fileInfo, error) {
	if err := f.call("stat", name); err != nil {
		return fileInfo{}, err
	}
	return f.fileSystem.Stat(name)
}

func (f *faultFS) Mkdir(name string) error {
	if err := f.call("mkdir", name); err != nil {
		return err
	}
	return f.fileSystem.Mkdir(name)
}

func (f *faultFS) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := f.call("readdir", name); err != nil {
		return nil, err
	}
	return f.fileSystem.ReadDir(name)
}

func (f *faultFS) Rename(from, to string) error {
	if err := f.call("rename", to); err != nil {
		return err
	}
	return f.fileSystem.Rename(from, to)
}

func (f *faultFS) Remove(name string) error {
	if err := f.call("remove", name); err != nil {
		return err
	}
	return f.fileSystem.Remove(name)
}

func (f *faultFS) Touch(name string, t time.Time) error {
	if err := f.call("touch", name); err != nil {
		return err
	}
	return f.fileSystem.Touch(name, t)
}

func (f *faultFS) OpenDir(name string) (directory, error) {
	if err := f.call("opendir", name); err != nil {
		return nil, err
	}
	d, err := f.fileSystem.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &faultDir{d, f, name}, nil
}

// SyncAll passes a failure on as the real one does: the caller syncs each file.
func (f *faultFS) SyncAll() bool {
	if f.call("syncall", ".") != nil {
		return false
	}
	switch fsys := f.fileSystem.(type) {
	case *memFS:
		return fsys.syncAll(!f.skipFileSync, !f.skipDirSync)
	default:
		return !f.skipFileSync && !f.skipDirSync && fsys.SyncAll()
	}
}

func (f *faultFS) Free() (int64, error) {
	if err := f.call("free", "."); err != nil {
		return 0, err
	}
	return f.fileSystem.Free()
}

type faultWriter struct {
	writeFile
	f    *faultFS
	name string
}

func (w *faultWriter) Write(p []byte) (int, error) {
	if err := w.f.call("write", w.name); err != nil {
		n, _ := w.writeFile.Write(p[:len(p)/2])
		return n, err
	}
	return w.writeFile.Write(p)
}

func (w *faultWriter) Sync() error {
	if err := w.f.call("sync", w.name); err != nil {
		return err
	}
	if w.f.skipFileSync {
		return nil
	}
	return w.writeFile.Sync()
}

func (w *faultWriter) Close() error {
	if err := w.f.call("close", w.name); err != nil {
		return errors.Join(err, w.writeFile.Close())
	}
	return w.writeFile.Close()
}

type faultReader struct {
	readFile
	f    *faultFS
	name string
}

func (r *faultReader) Read(p []byte) (int, error) {
	if err := r.f.call("read", r.name); err != nil {
		return 0, err
	}
	return r.readFile.Read(p)
}

func (r *faultReader) Sync() error {
	if err := r.f.call("sync", r.name); err != nil {
		return err
	}
	if r.f.skipFileSync {
		return nil
	}
	return r.readFile.Sync()
}

type faultDir struct {
	directory
	f    *faultFS
	name string
}

func (d *faultDir) Sync() error {
	if err := d.f.call("syncdir", d.name); err != nil {
		return err
	}
	if d.f.skipDirSync {
		return nil
	}
	return d.directory.Sync()
}

func (d *faultDir) TryLock() (bool, error) {
	if err := d.f.call("lock", d.name); err != nil {
		return false, err
	}
	return d.directory.TryLock()
}

// diskErrors are what the i-th call fails with, one after the other.
var diskErrors = []error{syscall.EIO, syscall.ENOSPC, syscall.EROFS, syscall.EMFILE, syscall.EACCES}
