package storage

import (
	"errors"

	"golang.org/x/sys/unix"
)

// HeldBy names the processes that have the store at path open for writing, such as
// "process 12". It is empty when nobody has, and changes nothing. A store that is
// not there is [core.CodeNotFound].
func HeldBy(path string) (string, error) {
	f, err := tryLocked(path, true)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return holder(path), nil
	case err != nil:
		return "", err
	}
	return "", f.Close()
}
