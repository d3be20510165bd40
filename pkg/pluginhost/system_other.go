//go:build !linux

package pluginhost

import "syscall"

// launcherAttr starts a launcher in a group of its own; this system has no
// namespaces.
func launcherAttr(bool) *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// aloneAttr starts a sidecar in a group of its own. This system cannot end it with
// the worker; its stream does, at the end of which the SDK leaves.
func aloneAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// socketPair returns two connected stream sockets that no other child inherits.
func socketPair() ([2]int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	return fds, err
}
