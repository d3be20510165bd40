//go:build linux

package launch

import (
	"errors"
	"fmt"
	"os"

	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Landlock's rights by what a sidecar may do with a path.
const (
	fileRead  = llsys.AccessFSExecute | llsys.AccessFSReadFile
	dirRead   = fileRead | llsys.AccessFSReadDir
	fileWrite = llsys.AccessFSWriteFile | llsys.AccessFSTruncate | llsys.AccessFSIoctlDev
	// No device files: a block device made in the run directory would be the disk.
	dirWrite = llsys.AccessFSRemoveDir | llsys.AccessFSRemoveFile | llsys.AccessFSMakeDir |
		llsys.AccessFSMakeReg | llsys.AccessFSMakeSock | llsys.AccessFSMakeFifo | llsys.AccessFSMakeSym | llsys.AccessFSRefer
	devices = llsys.AccessFSMakeChar | llsys.AccessFSMakeBlock
)

// handled returns the file rights that the kernel's version knows.
func handled(abi int) uint64 {
	all := uint64(dirRead | fileWrite | dirWrite | devices)
	if abi < 2 {
		all &^= llsys.AccessFSRefer
	}
	if abi < 3 {
		all &^= llsys.AccessFSTruncate
	}
	if abi < 5 {
		all &^= llsys.AccessFSIoctlDev
	}
	return all
}

// restrictFiles puts the calling thread, and what it forks, into a Landlock
// domain: files by the spec, no TCP without network, and no signals or abstract
// sockets to the outside, each as far as the kernel's version goes.
func restrictFiles(spec Spec) error {
	abi, err := llsys.LandlockGetABIVersion()
	if err != nil {
		return fmt.Errorf("not offered by this kernel (%w)", err)
	}
	attr := llsys.RulesetAttr{HandledAccessFS: handled(abi)}
	if abi >= 4 && !spec.Network {
		attr.HandledAccessNet = llsys.AccessNetBindTCP | llsys.AccessNetConnectTCP
	}
	if abi >= 6 {
		attr.Scoped = llsys.ScopeAbstractUnixSocket | llsys.ScopeSignal
	}
	fd, err := llsys.LandlockCreateRuleset(&attr, 0)
	if err != nil {
		return fmt.Errorf("create ruleset: %w", err)
	}
	defer unix.Close(fd)
	for _, rule := range []struct {
		paths  []string
		rights uint64
	}{
		{spec.Read, dirRead},
		{spec.Devices, llsys.AccessFSReadFile | fileWrite},
		{spec.Write, dirRead | fileWrite | dirWrite},
	} {
		for _, path := range rule.paths {
			if err := allow(fd, path, rule.rights&attr.HandledAccessFS); err != nil {
				return fmt.Errorf("allow %s: %w", path, err)
			}
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := llsys.LandlockRestrictSelf(fd, 0); err != nil {
		return fmt.Errorf("restrict: %w", err)
	}
	return nil
}

// allow adds a rule for what lies below path. A path that is not there needs none.
func allow(ruleset int, path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, os.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= fileRead | fileWrite
	}
	return llsys.LandlockAddPathBeneathRule(ruleset, &llsys.PathBeneathAttr{AllowedAccess: rights, ParentFd: fd}, 0)
}
