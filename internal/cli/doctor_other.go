//go:build !linux

package cli

import "golang.org/x/sys/unix"

// clockSynchronized is not known: this system has no call to ask with.
func clockSynchronized() (yes, known bool) { return false, false }

// memoryOnly reports that no file system of this system is known to be in memory.
func memoryOnly(*unix.Statfs_t) bool { return false }
