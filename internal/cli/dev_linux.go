package cli

import "syscall"

// childAttr puts a child into a process group of its own and ends it with dev.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
