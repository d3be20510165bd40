package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/transport"
)

// dataDir looks for the data directory, or for what it would be made in.
func (d *doctor) dataDir(context.Context) {
	dir := d.cfg.DataDir
	st, err := os.Stat(dir)
	switch {
	case err == nil && !st.IsDir():
		d.add("data directory", healthFail, "move the file away, or name another directory with --data-dir", "%s is no directory", dir)
	case err == nil && unix.Access(dir, unix.W_OK|unix.X_OK) != nil:
		d.add("data directory", healthFail, "run as the user it belongs to, or name another directory with --data-dir", "%s is not writable to user %d", dir, os.Geteuid())
	case err == nil:
		d.ok("data directory", "%s", absolute(dir))
	case !errors.Is(err, fs.ErrNotExist):
		d.add("data directory", healthFail, "run as a user who may look there, or name another directory with --data-dir", "%v", err)
	case unix.Access(nearest(dir), unix.W_OK|unix.X_OK) != nil:
		d.add("data directory", healthFail, "make it for this user, or name another one with --data-dir", "%s is not there, and %s is not writable to user %d", dir, nearest(dir), os.Geteuid())
	default:
		d.add("data directory", healthNote, "nothing: coordinator and worker make it at their first start", "%s is not there yet", absolute(dir))
	}
}

func absolute(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

// nearest is dir, or the lowest directory above it that is there.
func nearest(dir string) string {
	for dir = absolute(dir); !isDir(dir) && dir != filepath.Dir(dir); dir = filepath.Dir(dir) {
	}
	return dir
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// guarded is a file or directory with the permissions it may have at most.
type guarded struct {
	path string
	most fs.FileMode
	key  bool // the programs refuse to start when it is open to others
}

// guardedFiles lists what should be closed to others.
func (d *doctor) guardedFiles() []guarded {
	in, id := d.cfg.TLSDir, d.cfg.IdentityDir()
	return []guarded{
		{d.cfg.DataDir, 0o700, false},
		{d.cfg.StoragePath, 0o600, false},
		{d.workerStore, 0o600, false},
		{d.cfg.ObjectRoot, 0o700, false},
		{d.cfg.SidecarDir(), 0o700, false},
		{in, 0o700, true},
		{filepath.Join(in, transport.FileCA), 0o644, true},
		{filepath.Join(in, transport.FileCAKey), 0o600, true},
		{filepath.Join(in, transport.FileToken), 0o600, true},
		{filepath.Join(in, transport.FileAdmin), 0o644, true},
		{filepath.Join(in, transport.FileAdminKey), 0o600, true},
		{id, 0o700, true},
		{filepath.Join(id, transport.FileWorker), 0o600, true},
		{filepath.Join(id, transport.FileWorkerKey), 0o600, true},
	}
}

// modes compares permissions and owners with what the programs make.
func (d *doctor) modes(context.Context) {
	var mend, open, foreign []string
	state := healthWarn
	for _, g := range d.guardedFiles() {
		st, err := os.Stat(g.path)
		if err != nil {
			continue // what is not there is told by other checks
		}
		if mode := st.Mode().Perm(); mode&^g.most&0o077 != 0 {
			open = append(open, fmt.Sprintf("%s has mode %04o", g.path, mode))
			mend = append(mend, fmt.Sprintf("chmod %o %s", g.most, g.path))
			if g.key {
				state = healthFail
			}
		}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok && int(sys.Uid) != os.Geteuid() {
			foreign = append(foreign, fmt.Sprintf("%s belongs to user %d", g.path, sys.Uid))
		}
	}
	switch {
	case len(open) > 0:
		d.add("file modes", state, strings.Join(mend, " && "), "%s: others may use it", strings.Join(open, "; "))
	case len(foreign) == 0:
		d.ok("file modes", "what is there is closed to others")
	}
	if len(foreign) > 0 {
		d.add("file owners", healthWarn, fmt.Sprintf("run doctor as the user of the programs, or chown the files to user %d", os.Geteuid()), "%s", strings.Join(foreign, "; "))
	}
}

// Figures of the disk.
const (
	leastFree  = 64 << 20               // bytes below which the store stops soon
	goodFree   = 1 << 30                // bytes
	leastNodes = 10_000                 // free inodes; an object takes two
	syncFor    = 200 * time.Millisecond // how long syncs are measured
	syncMost   = 500                    // how many at most
	slowSync   = 20 * time.Millisecond  // a commit waits for one
	syncBytes  = 4096                   // written before each
)

// disk tells the room and the speed of the data directory's disk.
func (d *doctor) disk(context.Context) {
	dir := nearest(d.cfg.DataDir)
	d.room("disk space", dir)
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY}
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err == nil && limit.Cur <= syncBytes {
		d.add("disk sync", healthNote, "lift the limit on the size of files first", "not measured: a file may not have %d bytes", syncBytes)
		return
	}
	took, err := measureSyncs(dir)
	if err != nil {
		d.add("disk sync", healthFail, "make room, or see the finding about the data directory", "a file of %d bytes cannot be written and synced in %s: %v", syncBytes, dir, err)
		return
	}
	slices.Sort(took)
	median, worst := took[len(took)/2], took[len(took)-1]
	text := fmt.Sprintf("%s in %s took %v at the median and %v at worst, about %d/s one after another",
		count(len(took), "sync"), dir, median.Round(time.Microsecond), worst.Round(time.Microsecond), int(time.Second/max(median, 1)))
	switch memory, err := inMemory(dir); {
	case err == nil && memory:
		d.add("disk sync", healthWarn, "name a directory on a disk with --data-dir where work must survive a restart of the machine", "%s; the directory lies in memory", text)
	case median > slowSync:
		d.add("disk sync", healthWarn, "use a local SSD; each commit waits for a sync, though many share one", "%s", text)
	default:
		d.ok("disk sync", "%s", text)
	}
}

// room tells the free space and inodes of a directory's file system.
func (d *doctor) room(name, dir string) {
	const remedy = "make room: rollout object gc for objects that no job needs, rollout store compact for a closed store"
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		d.add(name, healthWarn, "see whether the file system is mounted", "%s: %v", dir, err)
		return
	}
	free := int64(st.Bavail) * int64(st.Bsize)
	text := fmt.Sprintf("%s free in %s", size(free), dir)
	switch {
	case free < leastFree:
		d.add(name, healthFail, remedy, "%s; the store refuses commits when the disk is full", text)
	case st.Files > 0 && st.Ffree < leastNodes:
		d.add(name, healthWarn, remedy, "%s, but only %d files more; an object takes two", text, st.Ffree)
	case free < goodFree:
		d.add(name, healthWarn, remedy, "%s", text)
	default:
		d.ok(name, "%s", text)
	}
}

// inMemory reports whether a directory's file system goes with the machine's memory.
func inMemory(dir string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return false, err
	}
	return memoryOnly(&st), nil
}

// measureSyncs appends to a temporary file and syncs it, again and again, and
// returns how long each took; there is at least one.
func measureSyncs(dir string) (took []time.Duration, err error) {
	f, err := os.CreateTemp(dir, ".rollout-doctor-*")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
	page := make([]byte, syncBytes)
	for began := time.Now(); len(took) == 0 || len(took) < syncMost && time.Since(began) < syncFor; {
		at := time.Now()
		if _, err := f.WriteAt(page, 0); err != nil {
			return nil, err
		}
		if err := f.Sync(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(at))
	}
	return took, nil
}

// tempDir looks at the directory for short-lived files. Sockets whose path would be
// too long below the data directory go to /tmp whatever TMPDIR says.
func (d *doctor) tempDir(context.Context) {
	dir := os.TempDir()
	const remedy = "make it writable to all (chmod 1777), or name another directory in TMPDIR"
	if unix.Access(dir, unix.W_OK|unix.X_OK) != nil || !isDir(dir) {
		d.add("temporary files", healthFail, remedy, "%s is not there or not writable", dir)
		return
	}
	if !isDir("/tmp") || unix.Access("/tmp", unix.W_OK|unix.X_OK) != nil {
		d.add("temporary files", healthWarn, "make /tmp writable, or keep the data directory's path shorter than 45 bytes", "/tmp is not writable, where sidecars get sockets when the data directory's path is long")
		return
	}
	d.room("temporary files", dir)
}
