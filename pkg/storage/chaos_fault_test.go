//go:build linux

package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// openHooked opens the store as a long-running process does, with planted defects.
func openHooked(ctx context.Context, path string, h hooks) (*Store, error) {
	return Open(ctx, hookedConfig(path, h))
}

func hookedConfig(path string, h hooks) Config {
	return Config{Path: path, RepairMeta: true, LockTimeout: lockPatience, hooks: h}
}

// refuseCalls makes the given system calls fail with errno in every thread of this
// process, for good, by a seccomp filter. It needs no privilege.
func refuseCalls(errno unix.Errno, calls ...uint32) error {
	const nr, arch = 0, 4 // offsets in struct seccomp_data
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: arch},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: auditArch, Jt: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: nr},
	}
	for _, call := range calls {
		filter = append(filter,
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
			unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)})
	}
	filter = append(filter, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW})
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}

	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no_new_privs: %w", err)
	}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if e != 0 {
		return fmt.Errorf("seccomp: %w", e)
	}
	return nil
}

// auditArch is the AUDIT_ARCH value of the machine, which a filter compares
// because call numbers mean nothing without it.
var auditArch = map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]

// limitFileSize sets the soft limit of what this process may write to a file.
func limitFileSize(n uint64) error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &lim); err != nil {
		return err
	}
	lim.Cur = min(n, lim.Max)
	return unix.Setrlimit(unix.RLIMIT_FSIZE, &lim)
}

// faultInjector makes one fault happen inside a load child and tells the parent:
//
//	fault            it is there now
//	reads            everything can still be read while commits fail
//	stopped          reads say that the store has stopped
//	healed           room was made again
//	recovered        a commit succeeded after that
type faultInjector struct {
	c *childProcess

	mu     sync.Mutex // guards what follows
	acks   int
	nacks  int
	active bool
	healed bool
	over   bool
}

// childFault returns what a writer calls after each acknowledgement.
func childFault(c *childProcess) *faultInjector {
	signal.Ignore(unix.SIGXFSZ) // the error of the write is what counts
	return &faultInjector{c: c}
}

// acked counts an acknowledgement; the FaultAt-th brings the fault.
func (f *faultInjector) acked() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.acks++
	switch {
	case f.c.Fault == "" || f.over:
	case !f.active && f.acks >= f.c.FaultAt:
		f.active = true
		if err := f.inject(); err != nil {
			f.c.say("fail inject %s: %v", f.c.Fault, err)
		}
		f.c.say("fault")
	case f.healed:
		f.over = true
		f.c.say("recovered")
	}
}

// nacked counts a failed commit and reports whether the writer should go on. The
// first one proves that reads go on, and ends a fault that can end.
func (f *faultInjector) nacked(ctx context.Context) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nacks++
	if f.nacks == 1 {
		f.proveReads(ctx)
		if f.c.Fault == "fsize" {
			if err := limitFileSize(unix.RLIM_INFINITY); err != nil {
				f.c.say("fail heal: %v", err)
			}
			f.healed = true
			f.c.say("healed")
		}
	}
	return f.nacks < 300
}

// proveReads reads the whole namespace and one row. Only a store that has stopped
// may refuse to: it cannot tell whether what is in the file was ever stored.
func (f *faultInjector) proveReads(ctx context.Context) {
	_, scan := f.c.store.Scan(ctx, core.NewKey(loadNamespace), core.ScanOptions{})
	_, get := f.c.store.GetMany(ctx, loadKey(0, "head"))
	switch err := errors.Join(scan, get); {
	case err == nil:
		f.c.say("reads")
	case core.IsCode(scan, core.CodeBroken) && core.IsCode(get, core.CodeBroken):
		f.c.say("stopped")
	default:
		f.c.say("fail read during %s: %v", f.c.Fault, err)
	}
}

func (f *faultInjector) inject() error {
	switch f.c.Fault {
	case "sync EIO":
		return refuseCalls(unix.EIO, unix.SYS_FDATASYNC, unix.SYS_FSYNC)
	case "write ENOSPC":
		return refuseCalls(unix.ENOSPC, unix.SYS_PWRITE64)
	case "write EROFS":
		return refuseCalls(unix.EROFS, unix.SYS_PWRITE64)
	case "write EIO":
		return refuseCalls(unix.EIO, unix.SYS_PWRITE64)
	case "fsize":
		return limitFileSize(4 * uint64(os.Getpagesize())) // both meta pages, and hardly more
	}
	return fmt.Errorf("no fault is called %q", f.c.Fault)
}

// childOpen tries to open the store with no free descriptor, then with enough.
// It reports the codes of both attempts.
func childOpen(ctx context.Context, c *childProcess) error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return err
	}
	f, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	next := uint64(f.Fd())
	if err := f.Close(); err != nil {
		return err
	}
	for _, limit := range []uint64{next, next + 1, lim.Cur} {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: limit, Max: lim.Max}); err != nil {
			return err
		}
		store, err := openHooked(ctx, c.Path, hooks{})
		c.say("opened %s", core.CodeOf(err))
		if err == nil {
			if err := store.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}
