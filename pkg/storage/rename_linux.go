package storage

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// renameToFree renames a file to a name that must be free. On a file system that
// cannot do that in one step the file gets the name as a second one.
func renameToFree(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return os.Link(from, to)
	}
	return err
}
