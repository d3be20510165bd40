package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// proc is one process, named so that a reused pid is another one.
type proc struct {
	pid   int
	start string // when it started, in the kernel's ticks
}

// readProc returns a process, its parent and its state. It fails for one that is gone.
func readProc(pid int) (p proc, parent int, state string, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return p, 0, "", err
	}
	// The name in parentheses may hold anything, the fields behind it are fixed.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 20 {
		return p, 0, "", fmt.Errorf("/proc/%d/stat has %d fields", pid, len(fields))
	}
	parent, err = strconv.Atoi(fields[1])
	return proc{pid, fields[19]}, parent, fields[0], err
}

// everyPid lists the processes of the machine.
func everyPid() ([]int, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, d := range dirs {
		if pid, err := strconv.Atoi(filepath.Base(d)); err == nil {
			out = append(out, pid)
		}
	}
	return out, nil
}

// descendants returns the children of a process, and theirs.
func descendants(of int) ([]proc, error) {
	pids, err := everyPid()
	if err != nil {
		return nil, err
	}
	children := map[int][]proc{}
	for _, pid := range pids {
		if p, parent, _, err := readProc(pid); err == nil { // else it has just ended
			children[parent] = append(children[parent], p)
		}
	}
	out := children[of]
	for i := 0; i < len(out); i++ {
		out = append(out, children[out[i].pid]...)
	}
	return out, nil
}

// alive reports whether a process still runs. One that only waits to be reaped does not.
func (p proc) alive() bool {
	now, _, state, err := readProc(p.pid)
	return err == nil && now == p && state != "Z" && state != "X"
}

// gone waits until no process of a list runs, at most until a time.
func gone(ctx context.Context, ps []proc, by time.Time) error {
	for {
		var left []int
		for _, p := range ps {
			if p.alive() {
				left = append(left, p.pid)
			}
		}
		switch {
		case len(left) == 0:
			return nil
		case time.Now().After(by):
			return fmt.Errorf("the processes %v are still there", left)
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return err
		}
	}
}

// strays returns the processes that have to do with a directory: it stands in their
// command line or environment.
func strays(dir string) ([]int, error) {
	pids, err := everyPid()
	if err != nil {
		return nil, err
	}
	var out []int
	for _, pid := range pids {
		p, _, _, err := readProc(pid)
		if err != nil || pid == os.Getpid() || !p.alive() {
			continue
		}
		for _, file := range []string{"cmdline", "environ"} {
			// Processes of other users cannot be read, and are not ours.
			if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file)); err == nil && bytes.Contains(text, []byte(dir)) {
				out = append(out, pid)
				break
			}
		}
	}
	return out, nil
}
