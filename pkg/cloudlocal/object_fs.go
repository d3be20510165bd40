package cloudlocal

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// fileSystem is everything the object store asks of a disk, so that tests can
// make any single step fail and can cut the power between two of them.
//
// Names are relative to the store's root, with slashes, and are built by this
// package from hexadecimal digits. No implementation follows a symbolic link out
// of the root. Errors are those of package io/fs and syscall.
type fileSystem interface {
	// Create makes a new file of mode 0600; fs.ErrExist if the name is taken.
	Create(name string) (writeFile, error)
	// Open opens a file for reading.
	Open(name string) (readFile, error)
	// ReadInto reads the head of a file, at most len(buf) bytes.
	ReadInto(name string, buf []byte) (int, error)
	// Stat describes a file. A link is described, not followed.
	Stat(name string) (fileInfo, error)
	// Mkdir makes a directory of mode 0700; fs.ErrExist if the name is taken.
	Mkdir(name string) error
	// ReadDir lists a directory in ascending order; "." is the root.
	ReadDir(name string) ([]fs.DirEntry, error)
	// Rename moves a file over whatever has the new name, atomically.
	Rename(from, to string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// Touch sets the modification time.
	Touch(name string, t time.Time) error
	// OpenDir opens a directory to sync or to lock it.
	OpenDir(name string) (directory, error)
	// SyncAll makes everything durable that was written and named before the call,
	// if it can do that cheaply; otherwise it reports false, and each file and
	// directory is to be synced by itself.
	SyncAll() bool
	// Free returns the bytes that an ordinary user may still write.
	Free() (int64, error)
	// Close releases the root.
	Close() error
}

// writeFile is a file being written. It belongs to one goroutine at a time.
type writeFile interface {
	io.Writer
	// StartSync asks the disk to begin writing length bytes at off. It promises
	// nothing: a disk that begins late is only slower.
	StartSync(off, length int64)
	// Sync returns once the bytes survive power loss.
	Sync() error
	// Stat describes the file as it is on disk.
	Stat() (fileInfo, error)
	Close() error
}

// readFile is a file being read.
type readFile interface {
	io.ReadCloser
	io.ReaderAt
	Stat() (fileInfo, error)
	// Sync returns once the bytes survive power loss, whoever wrote them.
	Sync() error
}

// directory is an open directory.
type directory interface {
	// Sync returns once the names in the directory survive power loss.
	Sync() error
	// TryLock takes the directory's lock, which excludes every other holder in
	// this and other processes until Close. It reports whether it was free.
	TryLock() (bool, error)
	Close() error
}

// fileInfo is what the store wants to know of a file.
type fileInfo struct {
	size    int64
	modTime time.Time
	regular bool // a plain file: no directory, link or device
}

// fsError gives an error of the disk its code. Absence has no meaning here: a
// caller that expects it looks for fs.ErrNotExist first.
func fsError(op string, err error) error {
	var coded *core.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &coded), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return core.Wrap(op, core.CodeOf(err), err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EMFILE),
		errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.ENOMEM), errors.Is(err, syscall.EFBIG):
		return core.Wrap(op, core.CodeExhausted, err)
	case errors.Is(err, fs.ErrPermission):
		return core.Wrap(op, core.CodePermissionDenied, err)
	}
	return core.Wrap(op, core.CodeBroken, err)
}
