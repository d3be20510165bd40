package pluginhost

import (
	"os"
	"syscall"
)

// capSysAdmin lets a launcher in a user namespace make a network namespace; it
// drops it before the sidecar starts.
const capSysAdmin = 21

// launcherAttr starts a launcher in a group of its own, and in a user namespace of
// its own where that gives it the right to contain.
func launcherAttr(userNS bool) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setpgid: true}
	if userNS {
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		attr.AmbientCaps = []uintptr{capSysAdmin}
	}
	return attr
}

// aloneAttr starts a sidecar without a launcher, ended with the thread that starts
// it.
func aloneAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// socketPair returns two connected stream sockets that no other child inherits.
func socketPair() ([2]int, error) {
	return syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
}
