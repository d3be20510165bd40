//go:build !linux

package storage

import "os"

// renameToFree gives a file a second name that must be free; this system cannot
// rename without replacing.
func renameToFree(from, to string) error { return os.Link(from, to) }
