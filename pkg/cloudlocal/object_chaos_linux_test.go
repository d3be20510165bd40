package cloudlocal

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Power is cut by telling ext4 to shut down at once, without flushing its journal:
// what no sync has forced out is gone, and every later write fails.
const (
	ext4Shutdown   = 0x8004587d // _IOR('X', 125, __u32)
	ext4NoLogFlush = 2
)

// powerDisk is a small ext4 file system in a file.
type powerDisk struct {
	t          *testing.T
	image, dir string
	mounted    bool
}

func newPowerDisk(t *testing.T) *powerDisk {
	t.Helper()
	needRootFor(t, "mount", "umount", "mkfs.ext4")
	d := &powerDisk{t: t, image: filepath.Join(t.TempDir(), "disk.img"), dir: t.TempDir()}
	f, err := os.Create(d.image)
	if err == nil {
		err = errors.Join(f.Truncate(256<<20), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.unmount)
	return d
}

// fresh puts an empty file system on the disk.
func (d *powerDisk) fresh() {
	d.t.Helper()
	d.unmount()
	runTool(d.t, "mkfs.ext4", "-q", "-F", "-N", "65536", d.image)
	d.mount()
}

// mount mounts the disk so that nothing but a sync reaches it within a round.
func (d *powerDisk) mount() {
	d.t.Helper()
	runTool(d.t, "mount", "-o", "loop,commit=1000", d.image, d.dir)
	d.mounted = true
}

func (d *powerDisk) unmount() {
	d.t.Helper()
	if d.mounted {
		d.mounted = false
		runTool(d.t, "umount", d.dir)
	}
}

// cut cuts the power a moment after it has written a marker, which hardly any sync
// has had the time to force out: the child may sync the whole file system at any time.
func (d *powerDisk) cut(marker string, content []byte) {
	dir, err := os.Open(d.dir)
	if err != nil {
		d.t.Error(err)
		return
	}
	defer dir.Close()
	if err := os.WriteFile(marker, content, 0o600); err != nil {
		d.t.Error(err)
	}
	if err := unix.IoctlSetPointerInt(int(dir.Fd()), ext4Shutdown, ext4NoLogFlush); err != nil {
		d.t.Errorf("shut the file system down: %v", err)
	}
}

// round loads a store, cuts the power and returns the first broken promise, and
// whether the cut shows, in that what nobody had synced is gone.
func (d *powerDisk) round(round uint64, bug string) (promises int, shows bool, broken error) {
	d.t.Helper()
	if round%50 == 0 {
		d.fresh()
	}
	marker, content := filepath.Join(d.dir, "never-synced"), noise(64<<10, round)
	c := startObjectsChild(d.t, objectsTask{Root: filepath.Join(d.dir, "objects"), Round: round, Bug: bug})
	c.load(time.Duration(rand.IntN(100))*time.Millisecond, func() { d.cut(marker, content) })
	d.unmount()
	d.mount()
	got, err := os.ReadFile(marker)
	shows = err != nil || !bytes.Equal(got, content)
	removeIfThere(d.t, marker)
	return len(c.acked), shows, c.check()
}

// TestR10ObjectsPowerCut cuts the power under 64 writers: every acknowledged object,
// the last one included, must be there and be whole.
func TestR10ObjectsPowerCut(t *testing.T) {
	d := newPowerDisk(t)
	promises, cuts, want := 0, 0, chaosCount(t, 1)
	for round := 0; cuts < want; round++ {
		n, shows, err := d.round(uint64(round), "")
		promises += n
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if shows {
			cuts++
		}
		if round > 2*want+10 {
			t.Fatalf("in %d of %d rounds a file that nobody synced is still whole: the power is not cut", round+1-cuts, round+1)
		}
	}
	t.Logf("%d power cuts, %d promises kept", cuts, promises)
}

// TestR10ObjectsPowerCutFindsMissingSync shows that the harness above can fail.
func TestR10ObjectsPowerCutFindsMissingSync(t *testing.T) {
	d := newPowerDisk(t)
	for round := range 100 {
		if _, _, err := d.round(uint64(round), "no directory sync"); err != nil {
			t.Logf("round %d shows it: %v", round, err)
			return
		}
	}
	t.Error("100 power cuts of a store that syncs no directory lost nothing")
}

// TestR6ObjectsDiskFull fills a real file system, then frees it again.
func TestR6ObjectsDiskFull(t *testing.T) {
	needRootFor(t, "mount", "umount")
	dir := t.TempDir()
	runTool(t, "mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", dir)
	t.Cleanup(func() { runTool(t, "umount", dir) })
	o, err := OpenObjects(t.Context(), ObjectsConfig{Root: filepath.Join(dir, "objects"), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for pass := range chaosCount(t, 1) {
		var ids []core.ContentID
		for n := 0; ; n++ {
			info, err := o.Put(t.Context(), bytes.NewReader(noise(100_000, uint64(pass*1000+n))), core.PutOptions{})
			if err != nil {
				wantCode(t, "a put on a full disk", err, core.CodeExhausted)
				break
			}
			ids = append(ids, info.ID)
		}
		if len(ids) < 10 {
			t.Fatalf("only %d objects fitted", len(ids))
		}
		if rs, err := o.Verify(t.Context(), ids, false); err != nil || len(rs) > 0 {
			t.Fatalf("on the full disk: %v, %v", rs, err)
		}
		if n := countFiles(t, filepath.Join(dir, "objects", tmpDir)); n > 0 {
			t.Fatalf("%d temporaries are left", n)
		}
		if err := o.Delete(t.Context(), ids...); err != nil {
			t.Fatal(err)
		}
	}
}

// TestR6ObjectsReadOnly takes the write permission of a whole file system away.
func TestR6ObjectsReadOnly(t *testing.T) {
	d := newPowerDisk(t)
	d.fresh()
	o, err := OpenObjects(t.Context(), ObjectsConfig{Root: filepath.Join(d.dir, "objects"), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	b := noise(1000, 1)
	id := mustPut(t, o, b).ID
	runTool(t, "mount", "-o", "remount,abort", d.dir)
	_, err = core.PutBlob(t.Context(), o, noise(1000, 2), "")
	wantCode(t, "a put on a read-only disk", err, core.CodeBroken)
	if !errors.Is(err, syscall.EROFS) && !strings.Contains(err.Error(), "shut") {
		t.Errorf("%v does not name the cause", err)
	}
	wantStored(t, o, id, b)
	_ = o.Close() // its directory cannot be removed
}

// TestR6ObjectsNoDescriptors puts when the process may open no more files.
func TestR6ObjectsNoDescriptors(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	o := openAt(t, t.TempDir())
	b := noise(1000, 1)
	id := mustPut(t, o, b).ID
	low := old
	low.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	_, putErr := core.PutBlob(t.Context(), o, noise(1000, 2), "")
	_, getErr := o.Get(t.Context(), id)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{"put": putErr, "get": getErr} {
		wantCode(t, what+" without a file descriptor", err, core.CodeExhausted)
	}
	mustPut(t, o, noise(1000, 2))
	wantStored(t, o, id, b)
}

func TestVersionSince(t *testing.T) {
	for release, want := range map[string]bool{"6.8.0-1015-aws": true, "5.8.0": true, "5.8": true, "5.7.19": false, "4.19.0-27": false, "10.0-rc1": true, "": false, "x.y": false, "6": false, "5.10+": true} {
		if got := versionSince(release, 5, 8); got != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}
