//go:build cgo && linux

package cabi

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/ctest"
)

// asanFlags make memory errors, undefined behaviour and leaks end the program.
var asanFlags = []string{"-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"}

// TestR27AddressSanitizer runs the whole C path under AddressSanitizer. A program
// that reads past a buffer must be stopped, else nothing is proven.
func TestR27AddressSanitizer(t *testing.T) {
	cc := ctest.Compiler(t)
	dir := t.TempDir()
	build := func(out string, args ...string) string {
		path := filepath.Join(dir, out)
		all := append(append(append([]string{}, cc...), asanFlags...), "-I"+filepath.Join(ctest.Root(t), "include"), "-I.", "-o", path)
		ctest.Run(t, append(append(all, args...), "-ldl")...)
		return path
	}
	control := filepath.Join(dir, "control.c")
	if err := os.WriteFile(control, []byte("#include <stdlib.h>\nint main(void) { volatile char *p = malloc(4); return p[4]; }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), build("control", control)).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("heap-buffer-overflow")) {
		t.Skipf("SKIPPED: AddressSanitizer does not work on this machine: %v\n%s", err, out)
	}
	v1 := build("libv1.so", "-shared", "-fPIC", "testdata/v1.c")
	v2 := build("libv2.so", "-shared", "-fPIC", "testdata/v2.c")
	driver := build("driver", "testdata/asan_driver.c", "shim_linux.c")
	cmd := exec.CommandContext(t.Context(), driver, v1, v2, strconv.Itoa(rounds(t, 300)))
	cmd.Env = append(os.Environ(), "ASAN_OPTIONS=detect_leaks=1:abort_on_error=0")
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.HasPrefix(out, []byte("clean")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestR27GoUnderAddressSanitizer runs the tests of this package in a build with
// -asan, in the long run only: it compiles the standard library anew.
func TestR27GoUnderAddressSanitizer(t *testing.T) {
	if os.Getenv("ROLLOUT_CHAOS_COUNT") == "" {
		t.Skip("SKIPPED: part of the long run, ROLLOUT_CHAOS_COUNT is not set")
	}
	cmd := exec.CommandContext(t.Context(), "go", "test", "-asan", "-count=1", "-run", "Test[A-Q]|TestR27Broken|TestS8Flipped", ".")
	cmd.Env = append(os.Environ(), "ROLLOUT_CHAOS_COUNT=", "ASAN_OPTIONS=detect_leaks=0")
	out, err := cmd.CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("AddressSanitizer")) {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestR27MemoryStaysFlat makes many calls of every outcome in several stretches and
// compares the memory of the process after each. The collector may keep more after one
// stretch than after another; a leak grows in every one.
func TestR27MemoryStaysFlat(t *testing.T) {
	lib := openBuilt(t, "testdata/v2.c")
	plugin, err := Start(t.Context(), lib, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	payload := bytes.Repeat([]byte("x"), 10_000)
	batch := [][]byte{payload, []byte("bad"), nil}
	run := func(n int) {
		for i := range n {
			for _, method := range []string{"echo", "fail", "after", "long-length", "empty"} {
				out, err := plugin.Call(t.Context(), method, payload)
				if (err == nil) != (method == "echo" || method == "empty") || err == nil && method == "echo" && len(out) != len(payload) {
					t.Fatalf("%s: %d bytes, %v", method, len(out), err)
				}
			}
			if i%10 == 0 {
				if _, err := plugin.CallBatch(t.Context(), "echo", batch); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	n := rounds(t, 10_000) / 2
	run(n)
	resident, least := []int{rss(t)}, math.MaxInt
	for range 4 {
		run(n)
		resident = append(resident, rss(t))
		least = min(least, resident[len(resident)-1]-resident[len(resident)-2])
	}
	t.Logf("resident KiB after each %d rounds: %v", n, resident)
	if least > noise {
		t.Errorf("resident memory grew by %d KiB or more each time: %v", least, resident)
	}
	if live := mustCall(t, lib, "live", ""); live != "0" {
		t.Errorf("%s bufs were not given back", live)
	}
}

// noise is what the collector of a process this small moves by itself, in KiB: less
// than a leak of 24 bytes in each of 25,000 calls.
const noise = 512

// rss returns the resident memory of this process in KiB, after a collection.
func rss(t *testing.T) int {
	t.Helper()
	debug.FreeOSMemory()
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kib); err == nil {
			return kib
		}
	}
	t.Fatal("no VmRSS in /proc/self/status")
	return 0
}

// TestR27Limits names what the contract says about sizes.
func TestR27Limits(t *testing.T) {
	lib := openBuilt(t, "testdata/v2.c")
	if out, err := lib.Call("echo", make([]byte, core.MaxCallPayload)); err != nil || len(out) != core.MaxCallPayload {
		t.Errorf("largest result: %d bytes, %v", len(out), err)
	}
	if _, err := lib.Call("huge", nil); !core.IsCode(err, core.CodeTooLarge) {
		t.Errorf("result above the limit: %v", err)
	}
}
