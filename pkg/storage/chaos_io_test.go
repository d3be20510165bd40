//go:build linux

package storage

import (
	"context"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// lockPatience bounds the wait for a killed predecessor's lock on a loaded machine.
const lockPatience = 30 * time.Second

// ioFault is one way in which the file system turns a commit down.
type ioFault struct {
	name string
	code core.Code // what every failed commit must say
	back bool      // commits succeed again when the cause is gone
}

var ioFaults = []ioFault{
	{"sync EIO", core.CodeBroken, false},
	{"write ENOSPC", core.CodeExhausted, false},
	{"write EROFS", core.CodeBroken, false},
	{"write EIO", core.CodeBroken, false},
	{"fsize", core.CodeExhausted, true},
}

// TestR6IOErrors lets the system calls of a loaded store fail: typed errors,
// nothing acknowledged lost, nothing kept that was refused, reads go on.
func TestR6IOErrors(t *testing.T) {
	if auditArch == 0 {
		t.Skip("NOT RUN: no system call filter for this processor")
	}
	rnd := rand.New(rand.NewPCG(chaosSeed(t), 4))
	for _, fault := range ioFaults {
		t.Run(fault.name, func(t *testing.T) {
			for round := range chaosCount(t, 1) {
				l := newLedger(killWriters)
				path := filepath.Join(t.TempDir(), "io.db")
				c := startChild(t, childSpec{Mode: "load", Path: path, Writers: killWriters, Round: round,
					Fault: fault.name, FaultAt: 100 + rnd.IntN(400), Ops: 80}, nil)
				seen := readFault(t, c, l)
				fault.judge(t, seen, l)
				reportWrong(t, checkLoad(t, path, l))
			}
		})
	}
}

// readFault reads the child's lines to their end and returns the fault's own.
func readFault(t *testing.T, c *child, l *ledger) (seen []string) {
	t.Helper()
	for words := c.next(); words != nil; words = c.next() {
		l.read(t, words)
		if len(words) == 1 {
			seen = append(seen, words[0])
		}
	}
	if status, output := c.wait(); status != 0 || c.failure != "" {
		t.Fatalf("the child ended with status %d: %s\n%s", status, c.failure, output)
	}
	return seen
}

func (f ioFault) judge(t *testing.T, seen []string, l *ledger) {
	t.Helper()
	want := []string{"fault"}
	if f.code != core.CodeBroken {
		want = append(want, "reads")
	} else if !slices.Contains(seen, "reads") {
		want = append(want, "stopped")
	}
	if f.back {
		want = append(want, "healed", "recovered")
	}
	for _, w := range want {
		if !slices.Contains(seen, w) {
			t.Errorf("the child never said %q: %q", w, seen)
		}
	}
	if len(l.codes) == 0 {
		t.Error("no commit failed: the run proves nothing")
	}
	for code, n := range l.codes {
		// Once the store stopped, every further commit says so.
		if code != f.code.String() && code != core.CodeBroken.String() {
			t.Errorf("%d commits failed with %s, want %s", n, code, f.code)
		}
	}
	if f.code != core.CodeBroken && l.codes[core.CodeBroken.String()] > 0 {
		t.Errorf("%d commits found the store broken by a full disk", l.codes[core.CodeBroken.String()])
	}
}

// TestR6NoDescriptors opens a store when no file descriptor is left.
func TestR6NoDescriptors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "fds.db")
	store, err := openHooked(context.Background(), path, hooks{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := core.PutBytes(context.Background(), store, loadKey(0, "head"), stamp{seq: 1}.value()); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	c := startChild(t, childSpec{Mode: "open", Path: path}, nil)
	var codes []string
	for words := c.next(); words != nil; words = c.next() {
		if words[0] == "opened" {
			codes = append(codes, words[1])
		}
	}
	if status, output := c.wait(); status != 0 {
		t.Fatalf("status %d: %s\n%s", status, c.failure, output)
	}
	// The last attempt has all it needs; "unknown" is the code of no error at all.
	if len(codes) != 3 || codes[0] != core.CodeExhausted.String() || codes[2] != core.CodeUnknown.String() {
		t.Errorf("the attempts ended with %q, want %s first and success last", codes, core.CodeExhausted)
	}
}

// needRoot skips a test that mounts file systems where that is not possible.
func needRoot(t *testing.T, tools ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("NOT RUN: mounting a file system needs root")
	}
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("NOT RUN: %v", err)
		}
	}
}

// command runs a program and fails the test when it fails.
func command(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// TestR6DiskFull fills a file system of 2 MiB, beside the file, and empties it
// again.
func TestR6DiskFull(t *testing.T) {
	needRoot(t, "mount", "umount")
	for range chaosCount(t, 1) {
		dir := t.TempDir()
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
			t.Skipf("NOT RUN: mounting a tmpfs: %v", err)
		}
		diskFull(t, dir)
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
	}
}

func diskFull(t *testing.T, dir string) {
	ctx, path := context.Background(), filepath.Join(dir, "full.db")
	store, err := openHooked(ctx, path, hooks{})
	if err != nil {
		t.Fatal(err)
	}
	put := func(i int) error {
		_, err := core.PutBytes(ctx, store, core.NewKey(core.NamespaceItems, string(rune('a'+i%26)), string(rune(i))), make([]byte, 20_000))
		return err
	}
	kept := 0
	for err = put(0); err == nil && kept < 1000; err = put(kept) {
		kept++
	}
	if !core.IsCode(err, core.CodeExhausted) {
		t.Errorf("a full disk is %v after %d rows, want exhausted", err, kept)
	}
	rows, err := store.Scan(ctx, core.NewKey(core.NamespaceItems), core.ScanOptions{})
	if err != nil || len(rows) != kept {
		t.Errorf("on a full disk the scan gives %d rows of %d: %v", len(rows), kept, err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if err := put(kept); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if err := store.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if store, err = openHooked(ctx, path, hooks{}); err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	rows, err = store.Scan(ctx, core.NewKey(core.NamespaceItems), core.ScanOptions{})
	if err != nil || len(rows) != kept+1 {
		t.Errorf("opened again the scan gives %d rows of %d: %v", len(rows), kept+1, err)
	}
}
