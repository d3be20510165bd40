//go:build !linux

package cli

import "syscall"

// childAttr puts a child into a process group of its own. This system cannot end it
// with dev.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
