//go:build unix

package cloudlocal

import (
	"errors"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// tryLock takes the lock of an open file for this handle. A file system without
// locks grants it: there, two processes on one store are on their own.
func tryLock(f *os.File) (bool, error) {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil, errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.ENOLCK), errors.Is(err, unix.EINVAL):
			return true, nil
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		}
		return false, os.NewSyscallError("flock", err)
	}
}

// freeBytes returns what an ordinary user may still write to f's file system.
func freeBytes(f *os.File) (int64, error) {
	_, free, err := space(f)
	return free, err
}

// diskSpace returns the size of the file system that a directory lies in, and what
// an ordinary user may still write to it, in bytes.
func diskSpace(dir string) (total, free int64, err error) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, 0, err
	}
	total, free, err = space(f)
	return total, free, errors.Join(err, f.Close())
}

func space(f *os.File) (total, free int64, err error) {
	var st unix.Statfs_t
	for {
		err := unix.Fstatfs(int(f.Fd()), &st)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, 0, os.NewSyscallError("fstatfs", err)
		}
		return clampBytes(uint64(st.Blocks), uint64(st.Bsize)), clampBytes(uint64(st.Bavail), uint64(st.Bsize)), nil
	}
}

// clampBytes multiplies without overflow: virtual file systems report sizes
// beyond any disk.
func clampBytes(blocks, size uint64) int64 {
	if size != 0 && blocks > math.MaxInt64/size {
		return math.MaxInt64
	}
	return int64(blocks * size)
}
