package cli

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/pluginhost"
)

// kernel names the features that hold plugins, with what each gives.
func (d *doctor) kernel(context.Context) {
	d.landlock()
	d.namespaces()
	d.cgroups()
}

// landlockGives says from which version on Landlock keeps what.
var landlockGives = [...]struct {
	from  int
	gives string
}{{1, "files"}, {3, "truncation"}, {4, "TCP"}, {5, "device controls"}, {6, "signals and abstract sockets"}}

// landlock asks for the version of Landlock.
func (d *doctor) landlock() {
	const remedy = "boot a kernel of 5.13 or newer with landlock in its lsm= list; containers need a seccomp profile that lets it through"
	abi, err := pluginhost.ProbeLandlock()
	if err != nil {
		d.add("landlock", healthWarn, remedy, "not offered (%v): a sidecar can read and write every file that its user can", err)
		return
	}
	var gives, lacks []string
	for _, g := range landlockGives {
		if abi >= g.from {
			gives = append(gives, g.gives)
		} else {
			lacks = append(lacks, g.gives)
		}
	}
	text := fmt.Sprintf("version %d, which keeps a sidecar from foreign %s", abi, strings.Join(gives, ", "))
	if len(lacks) > 0 {
		d.add("landlock", healthNote, "a kernel of 6.12 or newer keeps those too", "%s; not from %s", text, strings.Join(lacks, ", "))
		return
	}
	d.ok("landlock", "%s", text)
}

// namespaces tells whether a sidecar can get a network of its own, for which an
// unprivileged worker needs a user namespace.
func (d *doctor) namespaces() {
	if _, err := os.Stat("/proc/self/ns/net"); err != nil {
		d.add("namespaces", healthWarn, "boot a kernel with CONFIG_NET_NS", "the kernel has no network namespaces: only Landlock keeps a sidecar from TCP, and nothing from UDP")
		return
	}
	if os.Geteuid() == 0 {
		d.ok("namespaces", "the kernel has network namespaces, and root needs no user namespace for them")
		return
	}
	for _, s := range []struct{ file, bad, remedy string }{
		{"/proc/sys/user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"},
		{"/proc/sys/kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"},
		{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or an AppArmor profile for the worker with userns"},
	} {
		b, err := os.ReadFile(s.file)
		if err == nil && strings.TrimSpace(string(b)) == s.bad { // one that is absent forbids nothing
			d.add("namespaces", healthWarn, s.remedy, "%s is %s: this user's sidecars get no network namespace of their own", s.file, s.bad)
			return
		}
	}
	d.ok("namespaces", "network and user namespaces are open to this user")
}

// cgroups tells which groups this process could make for sidecars. Version 2 is not
// used: a single thread cannot enter a group of it.
func (d *doctor) cgroups() {
	const gives = "limits of memory and processes that the kernel keeps"
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		d.add("cgroups", healthNote, "mount /proc and the cgroups", "not readable (%v)", err)
		return
	}
	var writable, closed []string
	for line := range strings.Lines(string(text)) {
		part := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(part) != 3 || part[1] != "memory" && part[1] != "pids" {
			continue
		}
		dir := "/sys/fs/cgroup/" + part[1]
		if own := dir + part[2]; fileExists(own + "/tasks") {
			dir = own
		}
		if fileExists(dir+"/tasks") && unix.Access(dir, unix.W_OK) == nil {
			writable = append(writable, part[1])
		} else {
			closed = append(closed, part[1])
		}
	}
	slices.Sort(writable)
	switch {
	case len(writable) == 2:
		d.ok("cgroups", "version 1, memory and pids writable: %s", gives)
	case len(writable)+len(closed) > 0:
		d.add("cgroups", healthNote, "run the worker with write access to its own groups below /sys/fs/cgroup",
			"version 1, writable: %s; without both, memory is sampled and processes have an rlimit only", orNone(writable))
	case fileExists("/sys/fs/cgroup/cgroup.controllers"):
		d.add("cgroups", healthNote, "set MemoryMax= and TasksMax= of the worker's own systemd unit for a hard bound on all its plugins together",
			"version 2 only, whose groups a single sidecar's thread cannot enter: memory_mib is sampled ten times a second")
	default:
		d.add("cgroups", healthNote, "mount them on /sys/fs/cgroup", "none is mounted: memory_mib is sampled ten times a second")
	}
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// containment starts a trial sidecar and tells what held it.
func (d *doctor) containment(ctx context.Context) {
	c, err := pluginhost.ProbeContainment(ctx, d.launcher)
	switch {
	case err != nil:
		d.add("containment", healthFail, "see the findings about limits, the temporary directory and the kernel; no sidecar starts like this", "a trial sidecar did not start: %s", oneLine(err))
	case len(c.Missing) > 0:
		d.add("containment", healthWarn, "see landlock, namespaces and cgroups above; plugins with [sandbox] require = true refuse to start here",
			"a sidecar is held by %s; not by %s", orNone(c.Enforced), strings.Join(c.Missing, "; "))
	default:
		d.ok("containment", "a sidecar is held by %s", strings.Join(c.Enforced, ", "))
	}
}
