package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// stores tells who holds the stores, and whether a clock went back since.
func (d *doctor) stores(context.Context) {
	d.store("coordinator store", d.cfg.StoragePath, "coordinator")
	if d.workerStore != d.cfg.StoragePath {
		d.store("worker store", d.workerStore, "worker")
	}
}

func (d *doctor) store(name, path, program string) {
	st, err := os.Stat(path)
	if err == nil && !st.Mode().IsRegular() {
		d.add(name, healthFail, "move it away, or set storage.embedded.path", "%s is no file", path)
		return
	}
	if err == nil && st.ModTime().Sub(d.now) > clockStep {
		d.add("clock of "+name, healthWarn, "set the clock: timedatectl set-ntp true", "%s was written %v in the future of this machine's clock", path, st.ModTime().Sub(d.now).Round(clockStep))
	}
	holder, err := storage.HeldBy(path)
	switch {
	case core.IsCode(err, core.CodeNotFound):
		return // made at the first start
	case err != nil:
		d.add(name, healthFail, "run as the user it belongs to", "%s", oneLine(err))
	case holder != "":
		d.held(name, path, program, holder)
	case st != nil && st.Size() == 0:
		d.add(name, healthFail, "restore a backup (rollout store restore), or move the file away to begin with an empty store", "%s has no bytes", path)
	default:
		d.ok(name, "%s, %s, held by nobody; rollout store check verifies it", path, size(st.Size()))
	}
}

// held tells whether a store in use is that of the system meant to run here: its
// coordinator listens where the configuration says. A worker listens nowhere.
func (d *doctor) held(name, path, program, holder string) {
	text := fmt.Sprintf("%s is in use by %s%s", path, holder, commands(holder))
	another := fmt.Sprintf("stop it, or give a second %s another --data-dir", program)
	switch {
	case program == "worker":
		d.add(name, healthNote, "nothing, if that worker is meant to run; else "+another, "%s; a second worker on it refuses to start", text)
	case holder == fmt.Sprintf("process %d", listener(d.cfg.ListenAddr)):
		d.ok(name, "%s, which listens at %s", text, d.cfg.ListenAddr)
	default:
		d.add(name, healthWarn, another, "%s, which does not listen at %s; a second %s on it refuses to start", text, d.cfg.ListenAddr, program)
	}
}

// commands names the programs of the processes in a text such as "process 12 and
// process 15", as far as /proc tells.
func commands(holder string) string {
	var names []string
	for _, word := range strings.Fields(holder) {
		if b, err := os.ReadFile(filepath.Join("/proc", word, "comm")); err == nil && strings.Trim(word, "0123456789") == "" {
			names = append(names, strings.TrimSpace(string(b)))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// leftover is one kind of files that a program which was killed leaves behind.
type leftover struct {
	name, what, remedy string
	patterns           []string
	locked             bool // each is a directory or file whose lock its owner holds
}

// stale looks for files whose owners are gone.
func (d *doctor) stale(context.Context) {
	found := false
	for _, dir := range []string{d.cfg.DataDir, d.cfg.SidecarDir(), d.cfg.ObjectRoot} {
		if err := unix.Access(dir, unix.R_OK|unix.X_OK); errors.Is(err, unix.EACCES) {
			d.add("stale files", healthNote, "run doctor as the user of the programs", "%s cannot be looked into: %v", dir, err)
			return
		}
	}
	for _, l := range []leftover{
		{
			name: "stale sidecars", what: "run directories of sidecars whose worker was killed", locked: true,
			remedy:   "start the worker on this data directory, which removes them, or remove them",
			patterns: []string{filepath.Join(escape(d.cfg.SidecarDir()), "*")},
		},
		{
			name: "stale objects", what: "directories of objects that were being written when their program was killed", locked: true,
			remedy:   "the next program that opens the object store removes them; at once: rollout object gc",
			patterns: []string{filepath.Join(escape(d.cfg.ObjectRoot), "tmp", "*"), filepath.Join(escape(d.cfg.ObjectRoot), "*", "*", "*.tmp")},
		},
		{
			name: "damaged objects", what: "objects that were found damaged and moved away",
			remedy:   "find what damaged them (rollout object verify, the disk's log), put the objects again, then remove these",
			patterns: []string{filepath.Join(escape(d.cfg.ObjectRoot), "quarantine", "*")},
		},
		{
			name: "partial results", what: "outputs that are not complete",
			remedy:   "get them whole with rollout job results ID --output FILE, or remove them",
			patterns: []string{"*.partial", filepath.Join(escape(d.cfg.DataDir), "*.partial")},
		},
		{
			name: "stale copies", what: "files that a backup, a store or a certificate was being written to", locked: true,
			remedy: "remove them once no rollout program runs",
			patterns: []string{
				filepath.Join(escape(d.cfg.DataDir), ".*.partial-*"), filepath.Join(escape(d.cfg.DataDir), ".*.new-*"),
				filepath.Join(escape(d.cfg.TLSDir), ".*.tmp"), filepath.Join(escape(d.cfg.IdentityDir()), ".*.tmp"),
				filepath.Join(escape(d.cfg.DataDir), ".rollout-doctor-*"),
			},
		},
	} {
		found = d.leftover(l) || found
	}
	if !found {
		d.ok("stale files", "none")
	}
}

// escape keeps a directory's name from being read as a pattern.
func escape(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// leftover reports the files of one kind and whether there are any.
func (d *doctor) leftover(l leftover) bool {
	var left []string
	for _, pattern := range l.patterns {
		paths, err := filepath.Glob(pattern)
		if err != nil { // only a malformed pattern fails
			continue
		}
		for _, path := range paths {
			if !l.locked || lockFree(path) {
				left = append(left, path)
			}
		}
	}
	if len(left) == 0 {
		return false
	}
	more := ""
	if len(left) > 3 {
		more = fmt.Sprintf(" and %d more", len(left)-3)
	}
	d.add(l.name, healthNote, l.remedy, "%s: %s%s", l.what, strings.Join(left[:min(3, len(left))], ", "), more)
	return true
}

// lockFree reports whether nobody holds the lock of a file or directory. It takes
// the lock of readers for a moment. A link has none and goes with its directory.
func lockFree(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return !errors.Is(unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}
