//go:build linux

package storage

import (
	"bytes"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Power is cut by telling ext4 to shut down at once, without flushing its journal:
// what no sync has forced out is gone, and every later write fails.
const (
	ext4IoctlShutdown = 0x8004587d // _IOR('X', 125, __u32)
	ext4NoLogFlush    = 2
)

// powerDisk is a small ext4 file system in a file.
type powerDisk struct {
	t          *testing.T
	image, dir string
	mounted    bool
}

func newPowerDisk(t *testing.T) *powerDisk {
	t.Helper()
	needRoot(t, "mount", "umount", "mkfs.ext4")
	d := &powerDisk{t: t, image: filepath.Join(t.TempDir(), "disk.img"), dir: t.TempDir()}
	f, err := os.Create(d.image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(64 << 20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-F", d.image)
	d.mount()
	t.Cleanup(d.unmount)
	return d
}

// mount mounts the disk so that nothing but a sync reaches it within a round.
func (d *powerDisk) mount() {
	d.t.Helper()
	command(d.t, "mount", "-o", "loop,commit=1000", d.image, d.dir)
	d.mounted = true
}

func (d *powerDisk) unmount() {
	d.t.Helper()
	if d.mounted {
		d.mounted = false
		command(d.t, "umount", d.dir)
	}
}

// cut cuts the power.
func (d *powerDisk) cut() {
	d.t.Helper()
	dir, err := os.Open(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), ext4IoctlShutdown, ext4NoLogFlush); err != nil {
		d.t.Fatalf("shut the file system down: %v", err)
	}
}

// powerRounds runs rounds of the load, each ended by a power cut, and returns the
// broken promises of the first round that has any.
func powerRounds(t *testing.T, rounds int, bug string) (wrong []string) {
	t.Helper()
	d := newPowerDisk(t)
	path := filepath.Join(d.dir, "power.db")
	rnd := rand.New(rand.NewPCG(chaosSeed(t), 5))
	l, acks := newLedger(killWriters), 0
	for round := range rounds {
		l.newRound()
		c := startChild(t, childSpec{Mode: "load", Path: path, Writers: killWriters, Round: round, Bug: bug}, nil)
		d.loadAndCut(c, l, time.Duration(20+rnd.IntN(150))*time.Millisecond)
		acks += l.acks
		if wrong = checkLoad(t, path, l); len(wrong) > 0 {
			t.Logf("round %d", round)
			break
		}
	}
	t.Logf("%d acknowledged transactions", acks)
	return wrong
}

// loadAndCut cuts the power once the child has acknowledged enough and d has
// passed, then kills the child, whose later lines still count.
func (d *powerDisk) loadAndCut(c *child, l *ledger, dur time.Duration) {
	d.t.Helper()
	// The store's own syncs force out the name of this file, never its content.
	marker := filepath.Join(d.dir, "never synced")
	content := make([]byte, 64<<10)
	content[0] = 1
	if err := os.WriteFile(marker, content, 0o600); err != nil {
		d.t.Fatal(err)
	}
	dark := make(chan struct{})
	armed := false
	for words := c.next(); words != nil; words = c.next() {
		l.read(d.t, words)
		if !armed && l.acks >= killWriters {
			armed = true
			time.AfterFunc(dur, func() {
				defer close(dark)
				d.cut()
				// What the child still says was said before it noticed.
				_ = c.cmd.Process.Kill()
			})
		}
	}
	if !armed {
		d.t.Fatalf("the writer ended after %d acknowledgements: %s\n%s", l.acks, c.failure, c.printed())
	}
	<-dark
	c.kill()
	d.unmount()
	d.mount()
	if got, err := os.ReadFile(marker); err == nil && bytes.Equal(got, content) {
		d.t.Fatal("a file that nobody synced is still whole: the power was not cut")
	}
	// ext4 forces out the content of a file that is written over another one.
	if err := os.Remove(marker); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.t.Fatal(err)
	}
}

// TestPowerCut cuts the power under a loaded store: nothing acknowledged may be
// lost. It takes root and a loop device, so only `make chaos-power` runs it.
func TestPowerCut(t *testing.T) {
	reportWrong(t, powerRounds(t, needCount(t), ""))
}

// TestPowerCutFindsMissingSync shows that the harness above can fail, where kills
// of the process see nothing.
func TestPowerCutFindsMissingSync(t *testing.T) {
	needCount(t)
	if wrong := powerRounds(t, 20, "no sync"); len(wrong) == 0 {
		t.Error("20 power cuts of a store that never syncs lost nothing")
	}
}

// needCount is the number of rounds of a test that runs in long runs alone.
func needCount(t *testing.T) int {
	t.Helper()
	n := chaosCount(t, 0)
	if n == 0 {
		t.Skip("NOT RUN: cutting the power takes root and a loop device, see make chaos-power")
	}
	return n
}
