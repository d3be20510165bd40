//go:build !unix

package transport

import (
	"io/fs"
	"os"
)

// lockFile does nothing: a coordinator runs on Unix only, and clients make no CA.
func lockFile(*os.File) error { return nil }

// ownerOf knows no owner.
func ownerOf(fs.FileInfo) (int, bool) { return 0, false }
