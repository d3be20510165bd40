package cabi

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// staged is a copy that nobody else can change, ready for the loader.
type staged struct {
	path string
	// release frees what the loader no longer needs: everything when it refused
	// the file, else only what may go while the library lives.
	release func(opened bool)
}

// stage copies the library to where it will be opened from.
func stage(o Options) (staged, error) {
	src, err := openRegular(o.Path)
	if err != nil {
		return staged{}, err
	}
	defer src.Close() // read only: nothing to lose
	if o.SHA256 != "" {
		return stageSealed(src, o)
	}
	return stagePrivate(src, o)
}

// openRegular opens a regular file; a pipe or device would block or never end.
func openRegular(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		code := core.CodePluginContract
		if errors.Is(err, os.ErrNotExist) {
			code = core.CodeNotFound
		}
		return nil, core.Wrap(op, code, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		f.Close() // read only: nothing to lose
		return nil, core.Wrap(op, core.CodePluginContract, err)
	}
	return f, nil
}

// stageSealed copies src to a memory file that can never change again, and
// hashes that: what is hashed is what runs.
func stageSealed(src io.Reader, o Options) (staged, error) {
	fd, err := memfd(filepath.Base(o.Path))
	if err != nil {
		return staged{}, core.Errorf(op, core.CodeUnsupported, "sha256 pin: create memory file: %w", err)
	}
	// A duplicate does the copying, so that no finalizer closes the descriptor that
	// the loader knows by number.
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = fillSealed(os.NewFile(uintptr(dup), "pinned"), src, o)
	} else {
		err = core.Wrap(op, core.CodeExhausted, err)
	}
	if err != nil {
		unix.Close(fd) // memory only
		return staged{}, err
	}
	release := func(opened bool) {
		if !opened {
			unix.Close(fd) // memory only
		}
	}
	return staged{path: fmt.Sprintf("/proc/self/fd/%d", fd), release: release}, nil
}

// memfd creates a sealable memory file. Kernels that can forbid execution must be
// told that this one is executed; older ones know no such flag.
func memfd(name string) (int, error) {
	const base = unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, base|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) {
		fd, err = unix.MemfdCreate(name, base)
	}
	return fd, err
}

// fillSealed fills the memory file, seals it and checks its hash. It closes f.
func fillSealed(f *os.File, src io.Reader, o Options) error {
	defer f.Close() // memory only
	if _, err := io.Copy(f, src); err != nil {
		return core.Errorf(op, core.CodePluginContract, "copy %s: %w", o.Path, err)
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return core.Errorf(op, core.CodeUnsupported, "sha256 pin: seal memory file: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return core.Wrap(op, core.CodeInternal, err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return core.Wrap(op, core.CodeInternal, err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != o.SHA256 {
		return core.Errorf(op, core.CodePermissionDenied,
			"%s has sha256 %s, the manifest pins %s; it is not loaded", o.Path, got, o.SHA256)
	}
	return nil
}

// stagePrivate copies src into a directory of its own that only this user can
// enter. The directory goes as soon as the loader has mapped the file.
func stagePrivate(src io.Reader, o Options) (staged, error) {
	dir, err := os.MkdirTemp(o.CopyDir, "so-")
	if err != nil {
		return staged{}, core.Errorf(op, core.CodeUnavailable, "private copy of %s: %w", o.Path, err)
	}
	remove := func(bool) {
		os.RemoveAll(dir) // what stays behind is swept at the next start
	}
	path := filepath.Join(dir, filepath.Base(o.Path))
	if err := copyTo(path, src); err != nil {
		remove(false)
		return staged{}, core.Errorf(op, core.CodeUnavailable, "private copy of %s: %w", o.Path, err)
	}
	return staged{path: path, release: remove}, nil
}

func copyTo(path string, src io.Reader) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o500)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, src)
	return errors.Join(err, f.Close())
}
