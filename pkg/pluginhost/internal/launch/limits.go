//go:build linux

package launch

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// limits are the cgroups of one sidecar, and what stands in for them.
type limits struct {
	memoryMiB int
	thread    int     // the thread that entered the groups
	memory    *cgroup // nil: sampled, where a limit is asked for
	pids      *cgroup // nil: only the rlimit holds
}

// cgroup is a group made for one sidecar. In version 1 a single thread enters and
// leaves it; in version 2 that cannot be, and the group is not used.
type cgroup struct{ dir, parent string }

// enter moves the calling thread into groups that limit memory and processes.
func (l *limits) enter(memoryMiB int, note func(string, error)) {
	l.memoryMiB, l.thread = memoryMiB, unix.Gettid()
	if g, err := newCgroup("pids", "pids.max", strconv.Itoa(maxProcs)); err == nil {
		l.pids = g
		note("processes:cgroup", nil)
	} else if os.Geteuid() != 0 {
		note("processes:rlimit", nil)
	} else {
		note("processes", fmt.Errorf("%w, and root is exempt from the rlimit", err))
	}
	if memoryMiB <= 0 {
		return
	}
	g, err := newCgroup("memory", "memory.limit_in_bytes", strconv.FormatInt(int64(memoryMiB)<<20, 10))
	if err != nil {
		note("memory:sampled", nil)
		return
	}
	l.memory = g
	note("memory:cgroup", nil)
}

// leave takes the thread that entered out again, so that the groups can be removed.
// It is called on another thread: the one that entered may not write there any more.
func (l *limits) leave() {
	for _, g := range []*cgroup{l.memory, l.pids} {
		if g != nil {
			// A thread that stays costs an empty directory until this process ends.
			_ = os.WriteFile(filepath.Join(g.parent, "tasks"), []byte(strconv.Itoa(l.thread)), 0)
		}
	}
}

// freeze stops the sidecar from making further processes.
func (l *limits) freeze() {
	if l.pids != nil {
		_ = os.WriteFile(filepath.Join(l.pids.dir, "pids.max"), []byte("0"), 0) // killing works without
	}
}

// remove deletes the groups once every process in them is reaped. The kernel
// lets a group go a moment after its last process.
func (l *limits) remove() {
	for _, g := range []*cgroup{l.memory, l.pids} {
		for try := 0; g != nil && try < 100; try++ {
			if err := unix.Rmdir(g.dir); !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// newCgroup makes a version 1 group below this process's own, sets one limit and
// moves the calling thread in.
func newCgroup(controller, file, value string) (*cgroup, error) {
	parent, err := ownCgroup(controller)
	if err != nil {
		return nil, err
	}
	g := &cgroup{parent: parent, dir: filepath.Join(parent, fmt.Sprintf("rollout-%d", os.Getpid()))}
	// A launcher that was killed may have left its group behind, empty by now.
	if err := unix.Rmdir(g.dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("cgroup %s is in use: %w", g.dir, err)
	}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		return nil, fmt.Errorf("cgroup is not writable: %w", err)
	}
	for _, w := range []struct{ file, value string }{{file, value}, {"tasks", strconv.Itoa(unix.Gettid())}} {
		if err := os.WriteFile(filepath.Join(g.dir, w.file), []byte(w.value), 0); err != nil {
			return nil, errors.Join(fmt.Errorf("cgroup cannot be used: %w", err), unix.Rmdir(g.dir))
		}
	}
	return g, nil
}

// ownCgroup returns the directory of this process's group of a version 1
// controller.
func ownCgroup(controller string) (string, error) {
	b, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		part := strings.SplitN(sc.Text(), ":", 3)
		if len(part) != 3 || part[1] != controller {
			continue
		}
		root := filepath.Join("/sys/fs/cgroup", controller)
		for _, dir := range []string{filepath.Join(root, part[2]), root} {
			if _, err := os.Stat(filepath.Join(dir, "tasks")); err == nil {
				return dir, nil
			}
		}
	}
	return "", fmt.Errorf("no version 1 cgroup of controller %s", controller)
}

// sampleEvery is the interval of looking at resident memory without a cgroup.
const sampleEvery = 100 * time.Millisecond

// watchMemory returns a channel that says once that the group has too much
// resident memory, and a function that ends the watch.
func (l *limits) watchMemory() (<-chan string, func()) {
	hungry := make(chan string, 1)
	if l.memoryMiB <= 0 || l.memory != nil {
		return hungry, func() {}
	}
	done := make(chan struct{})
	go func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			var sum int64
			for _, p := range Descendants(os.Getpid()) {
				sum += residentBytes(p)
			}
			if sum > int64(l.memoryMiB)<<20 {
				hungry <- fmt.Sprintf("resident memory of %d MiB exceeded memory_mib = %d", sum>>20, l.memoryMiB)
				return
			}
		}
	}()
	return hungry, func() { close(done) }
}

// oomReason says that the kernel enforced the memory limit, if it did.
func (l *limits) oomReason() string {
	if l.memory == nil {
		return ""
	}
	b, err := os.ReadFile(filepath.Join(l.memory.dir, "memory.oom_control"))
	if err != nil {
		return ""
	}
	for _, line := range strings.Split(string(b), "\n") {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok && n != "0" {
			return fmt.Sprintf("the kernel enforced memory_mib = %d", l.memoryMiB)
		}
	}
	return ""
}
