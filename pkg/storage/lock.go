package storage

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// lockPoll is the pause between two attempts to lock a file.
const lockPoll = 10 * time.Millisecond

// openLocked opens the file of a store and locks it, for one writer or for any
// number of readers. It waits for another holder at most wait and then answers
// [core.CodeBusy] naming it.
func openLocked(ctx context.Context, path string, readOnly bool, wait time.Duration) (*os.File, error) {
	deadline := time.Now().Add(wait)
	for {
		f, err := tryLocked(path, readOnly)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return f, err
		}
		if time.Until(deadline) <= 0 {
			return nil, core.Errorf(opOpen, core.CodeBusy, "%s is in use by %s: stop it first, or choose another data directory", path, holder(path))
		}
		select {
		case <-ctx.Done():
			return nil, core.Wrap(opOpen, core.CodeCanceled, fmt.Errorf("waiting for %s, in use by %s: %w", path, holder(path), ctx.Err()))
		case <-time.After(lockPoll):
		}
	}
}

// tryLocked makes one attempt, which fails with EWOULDBLOCK while another holds
// the lock.
func tryLocked(path string, readOnly bool) (*os.File, error) {
	flag, how := os.O_RDWR, unix.LOCK_EX
	if readOnly {
		flag, how = os.O_RDONLY, unix.LOCK_SH
	}
	f, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, openError(path, err)
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// Who held the lock may have put another file in this place meanwhile.
	mine, err1 := f.Stat()
	there, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, there) {
		return nil, errors.Join(unix.EWOULDBLOCK, f.Close())
	}
	return f, nil
}

func openError(path string, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return core.Errorf(opOpen, core.CodeNotFound, "%s does not exist", path)
	case errors.Is(err, fs.ErrPermission):
		return core.Wrap(opOpen, core.CodePermissionDenied, err)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOSPC):
		return core.Wrap(opOpen, core.CodeExhausted, err)
	}
	return core.Wrap(opOpen, core.CodeUnavailable, err)
}

// holder names the processes that hold a lock on the file, as the kernel tells
// it. The lock belongs to the open file, so the process named is the one that
// took it.
func holder(path string) string {
	const unknown = "another process"
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return unknown
	}
	inode := ":" + strconv.FormatUint(st.Ino, 10)
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return unknown
	}
	defer locks.Close() //nolint:errcheck // read only
	var pids []string
	sc := bufio.NewScanner(locks)
	for sc.Scan() {
		// "1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF"
		f := strings.Fields(sc.Text())
		if len(f) < 6 || f[1] != "FLOCK" || !strings.HasSuffix(f[5], inode) {
			continue
		}
		if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
			pids = append(pids, fmt.Sprintf("process %d", pid))
		}
	}
	if len(pids) == 0 {
		return unknown
	}
	return strings.Join(pids, " and ")
}
