package cloudlocal

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// beneath asks the kernel to refuse every way out of the root, symbolic links
// included, in one call instead of one for each directory of the name.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openat2 opens a name below the root. Without the call (a kernel before 5.6, or
// a sandbox that forbids it) it returns ENOSYS.
func (d *diskFS) openat2(name string, flags uint64) (int, error) {
	if d.plain {
		return -1, unix.ENOSYS
	}
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC | unix.O_NOFOLLOW, Resolve: beneath}
	if flags&unix.O_CREAT != 0 {
		how.Mode = 0o600
	}
	for {
		fd, err := unix.Openat2(d.fd, name, &how)
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			continue // EAGAIN: a rename elsewhere made the kernel unsure; it asks to be asked again
		case errors.Is(err, unix.EPERM):
			return -1, unix.ENOSYS // a sandbox; where it is a file's own, the plain way says so too
		}
		return -1, &fs.PathError{Op: "openat2", Path: name, Err: err}
	}
}

func (d *diskFS) createBeneath(name string) (*os.File, error) {
	fd, err := d.openat2(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	if errors.Is(err, unix.ENOSYS) {
		return d.createPlain(name)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (d *diskFS) openDirBeneath(name string) (*os.File, error) {
	fd, err := d.openat2(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOSYS) {
		return d.openDirPlain(name)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Rename opens the two directories, which cannot lead out of the root, and renames
// between them, where nothing is left to resolve.
func (d *diskFS) Rename(from, to string) error {
	fromDir, fromBase := path.Split(from)
	toDir, toBase := path.Split(to)
	a, err := d.openat2(path.Clean(fromDir), unix.O_PATH|unix.O_DIRECTORY)
	if errors.Is(err, unix.ENOSYS) {
		return d.root.Rename(from, to)
	}
	if err != nil {
		return err
	}
	b, err := d.openat2(path.Clean(toDir), unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return errors.Join(err, unix.Close(a))
	}
	err = unix.Renameat(a, fromBase, b, toBase)
	if err != nil {
		err = &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return errors.Join(err, unix.Close(a), unix.Close(b))
}

func (d *diskFS) openBeneath(name string) (*os.File, error) {
	fd, err := d.openat2(name, unix.O_RDONLY|unix.O_NONBLOCK)
	switch {
	case errors.Is(err, unix.ENOSYS):
		return d.openPlain(name)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENXIO):
		return nil, notPlain(name)
	case err != nil:
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.Join(notPlain(name), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (d *diskFS) ReadInto(name string, buf []byte) (int, error) {
	fd, err := d.openat2(name, unix.O_RDONLY|unix.O_NONBLOCK)
	switch {
	case errors.Is(err, unix.ENOSYS):
		return d.readPlain(name, buf)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV), errors.Is(err, unix.ENXIO):
		return 0, notPlain(name)
	case err != nil:
		return 0, err
	}
	n, err := readFull(fd, buf)
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return 0, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return n, nil
}

func readFull(fd int, buf []byte) (int, error) {
	n := 0
	for n < len(buf) {
		m, err := unix.Read(fd, buf[n:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || m == 0 {
			return n, err
		}
		n += m
	}
	return n, nil
}

func (d *diskFS) Stat(name string) (fileInfo, error) {
	fd, err := d.openat2(name, unix.O_PATH)
	switch {
	case errors.Is(err, unix.ENOSYS):
		return d.statPlain(name)
	case errors.Is(err, unix.ELOOP), errors.Is(err, unix.EXDEV):
		return fileInfo{}, nil // a link on the way: there, and not plain
	case err != nil:
		return fileInfo{}, err
	}
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if cerr := unix.Close(fd); err == nil {
		err = cerr
	}
	if err != nil {
		return fileInfo{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	return fileInfo{size: st.Size, modTime: time.Unix(st.Mtim.Unix()), regular: st.Mode&unix.S_IFMT == unix.S_IFREG}, nil
}

// startSync begins to write dirty pages without waiting for them. Its error is
// dropped: the sync that follows reports what really matters.
func startSync(f *os.File, off, length int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, length, unix.SYNC_FILE_RANGE_WRITE) // see above
}
