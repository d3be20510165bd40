//go:build linux

package launch

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"github.com/rollout-substrate/rollout/pkg/core"
	"golang.org/x/sys/unix"
)

// start forks the sidecar from a thread of its own, which then lives as long as
// this process does.
func (l *launcher) start() (*Started, error) {
	type outcome struct {
		started *Started
		err     error
	}
	ch := make(chan outcome)
	go func() {
		runtime.LockOSThread()
		s, err := l.startHere()
		ch <- outcome{s, err}
		select {} // a thread that ends takes its children with it
	}()
	o := <-ch
	l.lim.leave()
	if o.err != nil {
		l.lim.remove()
	}
	return o.started, o.err
}

// startHere restricts the calling thread and forks from it.
func (l *launcher) startHere() (*Started, error) {
	c := core.Containment{Missing: append([]string(nil), l.spec.Missing...)}
	note := func(what string, err error) {
		if err != nil {
			c.Missing = append(c.Missing, what+": "+err.Error())
			return
		}
		c.Enforced = append(c.Enforced, what)
	}
	note("rlimits", setRlimits())
	l.lim.enter(l.spec.MemoryMiB, note)
	if l.spec.Network {
		c.Missing = append(c.Missing, "network: on, the allowlist is not enforced per host")
	} else {
		note("network", ownNetwork())
	}
	note("capabilities", dropCapabilities())
	note("landlock", restrictFiles(l.spec))
	if l.spec.Require && len(c.Missing) > 0 {
		return nil, core.Errorf("", core.CodeFailedPrecondition, "[sandbox] require is set and this machine does not enforce: %s", strings.Join(c.Missing, "; "))
	}
	pid, err := l.fork()
	if err != nil {
		return nil, core.Errorf("", core.CodePluginCrashed, "start %s: %w", l.spec.Exe, err)
	}
	l.pid = pid
	return &Started{PID: pid, Containment: c}, nil
}

func (l *launcher) fork() (int, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	files := []uintptr{null.Fd(), FDStdout, FDStderr}
	if l.spec.Stream {
		files = append(files, FDStream)
	}
	pid, err := syscall.ForkExec(l.spec.Exe, l.spec.Argv, &syscall.ProcAttr{
		Dir:   l.spec.Dir,
		Env:   l.spec.Env,
		Files: files,
		Sys:   &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, err
	}
	// The launcher must not keep the stream open: its end tells of the sidecar's.
	for _, fd := range []int{FDStream, FDStdout, FDStderr} {
		_ = syscall.Close(fd) // nothing was written here
	}
	return pid, nil
}

// The limits of every sidecar, whatever its manifest says.
const (
	maxFiles    = 4096
	maxFileSize = 1 << 30
	maxProcs    = 4096
)

// setRlimits lowers this process's own limits, which the sidecar inherits.
func setRlimits() error {
	for _, r := range []struct {
		what int
		max  uint64
	}{
		{syscall.RLIMIT_CORE, 0}, {syscall.RLIMIT_NOFILE, maxFiles}, {syscall.RLIMIT_FSIZE, maxFileSize}, {unix.RLIMIT_NPROC, maxProcs},
	} {
		var lim syscall.Rlimit
		if err := syscall.Getrlimit(r.what, &lim); err != nil {
			return err
		}
		lim.Max = min(lim.Max, r.max)
		lim.Cur = lim.Max
		if err := syscall.Setrlimit(r.what, &lim); err != nil {
			return err
		}
	}
	return nil
}

// ownNetwork moves the calling thread into a network namespace without any
// interface but a loopback that is down.
func ownNetwork() error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("no network namespace (%w); TCP is refused by Landlock where the kernel has it", err)
	}
	return nil
}

// keptCapabilities let a sidecar of a worker that runs as root read files of
// other users below the paths that Landlock leaves it, and nothing else.
var keptCapabilities = [...]int{unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH, unix.CAP_FOWNER}

// dropCapabilities empties the calling thread's bounding and ambient sets but for
// the kept ones, so that exec as root gives no more, and forbids gaining others.
func dropCapabilities() error {
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if os.Geteuid() != 0 {
		return nil
	}
	for c := 0; c <= unix.CAP_LAST_CAP; c++ {
		if kept(c) {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(c), 0, 0, 0); err != nil && err != unix.EINVAL {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	return nil
}

func kept(c int) bool {
	for _, k := range keptCapabilities {
		if c == k {
			return true
		}
	}
	return false
}
