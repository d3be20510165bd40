package cli

import "golang.org/x/sys/unix"

// clockSynchronized asks the kernel whether something keeps the clock right.
func clockSynchronized() (yes, known bool) {
	var tx unix.Timex
	state, err := unix.Adjtimex(&tx)
	return state != unix.TIME_ERROR && tx.Status&unix.STA_UNSYNC == 0, err == nil
}

// memoryOnly reports whether a file system keeps its files in memory only.
func memoryOnly(st *unix.Statfs_t) bool {
	return st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC
}
