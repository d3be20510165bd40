//go:build linux

package launch

import (
	"bytes"
	"os"
	"strconv"
)

// Descendants returns the processes that have root among their ancestors, as far
// as /proc tells at this moment.
func Descendants(root int) []int {
	parents := make(map[int]int)
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			if ppid, ok := parentOf(pid); ok {
				parents[pid] = ppid
			}
		}
	}
	var out []int
	for pid := range parents {
		for at, steps := pid, 0; steps < 1000; steps++ {
			up, ok := parents[at]
			if !ok {
				break
			}
			if up == root {
				out = append(out, pid)
				break
			}
			at = up
		}
	}
	return out
}

// parentOf reads the fourth field of /proc/PID/stat, which follows a name in
// parentheses that may contain anything.
func parentOf(pid int) (int, bool) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, false
	}
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return 0, false
	}
	f := bytes.Fields(b[i+1:])
	if len(f) < 2 || bytes.Equal(f[0], []byte("Z")) {
		return 0, false
	}
	ppid, err := strconv.Atoi(string(f[1]))
	return ppid, err == nil
}

// residentBytes returns the resident memory of one process.
func residentBytes(pid int) int64 {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/statm")
	if err != nil {
		return 0
	}
	f := bytes.Fields(b)
	if len(f) < 2 {
		return 0
	}
	pages, err := strconv.ParseInt(string(f[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}
