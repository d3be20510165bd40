package cli

import (
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ownStdout takes standard output for this program's own writing: it comes back
// under another number, which no child inherits, and descriptor 1 becomes standard
// error. What plugin code in this process, C's printf or a child of an embedded
// plugin write to descriptor 1 is then a log line and damages no event and no
// result. A writer that is not descriptor 1 is returned as it is.
func ownStdout(stdout io.Writer) (io.Writer, error) {
	f, ok := stdout.(*os.File)
	if !ok || int(f.Fd()) != syscall.Stdout {
		return stdout, nil
	}
	own, err := unix.FcntlInt(uintptr(syscall.Stdout), unix.F_DUPFD_CLOEXEC, syscall.Stderr+1)
	if err != nil {
		return nil, fmt.Errorf("duplicate standard output: %w", err)
	}
	if err := unix.Dup3(syscall.Stderr, syscall.Stdout, 0); err != nil {
		return nil, fmt.Errorf("turn descriptor 1 to standard error: %w", err)
	}
	return os.NewFile(uintptr(own), f.Name()), nil
}
