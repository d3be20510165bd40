//go:build cgo && linux

package cabi

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/ctest"
)

func fileSHA256(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// rounds returns the count of a fault run: ROLLOUT_CHAOS_COUNT, or few in CI.
func rounds(t testing.TB, few int) int {
	t.Helper()
	text := os.Getenv("ROLLOUT_CHAOS_COUNT")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("ROLLOUT_CHAOS_COUNT=%q: want a positive number", text)
	}
	return n
}

// TestS8FlippedByte flips each of some bytes of a pinned library.
func TestS8FlippedByte(t *testing.T) {
	path := ctest.Library(t, "testdata/v1.c")
	pin := fileSHA256(t, path)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for range rounds(t, 20) {
		bad := append([]byte(nil), good...)
		at := rand.IntN(len(bad))
		bad[at] ^= 1 << rand.IntN(8)
		if err := os.WriteFile(path, bad, 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Path: path, Symbol: factory, SHA256: pin, CopyDir: t.TempDir()}); !core.IsCode(err, core.CodePermissionDenied) {
			t.Fatalf("byte %d flipped: %v", at, err)
		}
	}
}

// TestS8SwapBetweenCheckAndLoad swaps the file all the time while it is opened
// again and again: what opens must be the pinned one. The same run with a check
// of the path, as a negative control, must let the other one through.
func TestS8SwapBetweenCheckAndLoad(t *testing.T) {
	if got := swapRun(t, Open, rounds(t, 60)); got > 0 {
		t.Errorf("changed bytes ran %d times", got)
	}
	if got := swapRun(t, openByPath, rounds(t, 60)); got == 0 {
		t.Error("the negative control never ran changed bytes: this test sees nothing")
	}
}

// openByPath is the mistake that pins are there to avoid: it checks the path and
// then opens the path. Here it also waits for the swap in between.
func openByPath(o Options) (*Library, error) {
	checked, err := os.Stat(o.Path)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(o.Path)
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != o.SHA256 {
		return nil, core.Errorf(op, core.CodePermissionDenied, "other bytes")
	}
	for now := checked; os.SameFile(now, checked); runtime.Gosched() {
		if now, err = os.Stat(o.Path); err != nil {
			return nil, err
		}
	}
	o.SHA256 = ""
	return Open(o)
}

// swapRun opens a pinned library n times while another goroutine swaps the file,
// and counts how often the other library came up.
func swapRun(t *testing.T, open func(Options) (*Library, error), n int) (changed int) {
	t.Helper()
	files := [2]string{ctest.Library(t, "testdata/v1.c"), ctest.Library(t, "testdata/v2.c")}
	dir := t.TempDir()
	o := Options{Path: filepath.Join(dir, "lib.so"), Symbol: factory, SHA256: fileSHA256(t, files[0]), CopyDir: dir}
	put := func(i int) error {
		if err := os.Link(files[i%2], o.Path+".new"); err != nil {
			return err
		}
		return os.Rename(o.Path+".new", o.Path)
	}
	if err := put(0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for i := 1; ctx.Err() == nil; i++ {
			if err := put(i); err != nil {
				t.Error(err)
				return
			}
		}
	})
	defer swapper.Wait()
	defer cancel()

	opened := 0
	for i := 0; (i < n || opened == 0) && !t.Failed(); i++ {
		lib, err := open(o)
		switch {
		case core.IsCode(err, core.CodePermissionDenied):
			continue
		case err != nil:
			t.Fatal(err)
		}
		opened++
		if lib.Name() != "old-timer" {
			changed++
		}
	}
	t.Logf("%d of %d opened, %d with changed bytes", opened, n, changed)
	return changed
}
