package cloudlocal

import (
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxDirty is how much may wait for the disk, in KiB and on the whole machine, for a
// sync of the whole file system to be worth it: that sync waits for all of it,
// whoever wrote it.
const maxDirty = 64 << 10

// SyncAll syncs the file system of the root as a whole, which costs two writes of
// its journal where a sync for each of many files costs dozens.
//
// It is done only where it is known to mean what it says: on the file systems below,
// and on a kernel that reports write errors to it (5.8). After an error it reports
// that nothing was done: the error may be another file's, and the sync of each file
// tells.
func (d *diskFS) SyncAll() bool {
	if d.plain || !d.syncsWhole() {
		return false
	}
	if dirty, ok := dirtyKiB(); !ok || dirty > maxDirty {
		return false
	}
	for {
		err := unix.Syncfs(d.fd)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

func (d *diskFS) syncsWhole() bool {
	d.whole.Do(func() {
		var st unix.Statfs_t
		if unix.Fstatfs(d.fd, &st) != nil {
			return
		}
		switch int64(st.Type) {
		case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
			d.wholeOK = kernelSince(5, 8)
		}
	})
	return d.wholeOK
}

// kernelSince reports whether the kernel is at least of a version.
func kernelSince(major, minor int) bool {
	var u unix.Utsname
	if unix.Uname(&u) != nil {
		return false
	}
	return versionSince(unix.ByteSliceToString(u.Release[:]), major, minor)
}

// versionSince compares a release such as "6.8.0-1015-aws".
func versionSince(release string, major, minor int) bool {
	a, rest, _ := strings.Cut(release, ".")
	b := rest
	if end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); end >= 0 {
		b = rest[:end]
	}
	have, err := strconv.Atoi(a)
	minorHave, merr := strconv.Atoi(b)
	return err == nil && merr == nil && (have > major || have == major && minorHave >= minor)
}

// dirtyKiB returns how much the kernel has yet to write to its disks.
func dirtyKiB() (sum int64, ok bool) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, false
	}
	for _, name := range []string{"Dirty:", "Writeback:"} {
		f := field(string(text), name)
		if f == "" {
			return 0, false
		}
		sum += kib(f)
	}
	return sum, true
}
