//go:build cgo && linux

package pyembed

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// TestR27PythonAbuse raises, exits, recurses and makes threads in embedded code,
// and compares the memory of the process before and after.
func TestR27PythonAbuse(t *testing.T) {
	i := start(t, spec(t, "habits", "habits"))
	payload := []byte(strings.Repeat("x", 1000))
	run := func(n int) {
		for k := range n {
			for method, code := range map[string]core.Code{
				"echo": core.CodeUnknown, "raise": core.CodePluginError, "exit": core.CodePluginError, "text": core.CodePluginError,
			} {
				if _, err := i.Call(t.Context(), method, payload); core.CodeOf(err) != code {
					t.Fatalf("%s: %v", method, err)
				}
			}
			if k%1000 == 0 {
				if _, err := i.Call(t.Context(), "recurse", nil); !core.IsCode(err, core.CodePluginError) {
					t.Fatalf("recurse: %v", err)
				}
				if got := mustCall(t, i, "threads", "20"); got != "20" {
					t.Fatalf("threads = %q", got)
				}
			}
		}
	}
	n := rounds(t, 1000)
	run(n/2 + 1)
	before := rss(t)
	run(n)
	after := rss(t)
	t.Logf("resident: %d KiB, then %d KiB after %d rounds", before, after, n)
	if after > before+before/20 {
		t.Errorf("resident memory grew from %d to %d KiB", before, after)
	}
}

// TestR27StartsAndStops loads and unloads again and again: modules, threads and
// descriptors must not pile up.
func TestR27StartsAndStops(t *testing.T) {
	in := interpreter(t)
	run := func(n int) {
		for range n {
			i, err := in.Start(t.Context(), spec(t, "habits", "habits"))
			if err != nil {
				t.Fatal(err)
			}
			mustCall(t, i, "echo", "x")
			stop(t, i)
		}
	}
	n := rounds(t, 100)
	run(n/2 + 20)
	fds, before := descriptors(t), rss(t)
	run(n)
	after := rss(t)
	t.Logf("resident: %d KiB, then %d KiB after %d starts", before, after, n)
	if after > before+before/10 {
		t.Errorf("resident memory grew from %d to %d KiB", before, after)
	}
	if got := descriptors(t); got > fds {
		t.Errorf("descriptors grew from %d to %d", fds, got)
	}
}

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

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestEveryPythonOfTheMachine runs this package's tests with each libpython that can
// be found, in a process each, since a process has one Python. The one that this
// process itself embeds is not tried again.
func TestEveryPythonOfTheMachine(t *testing.T) {
	if os.Getenv(pythonEnv) != "" {
		t.Skip("SKIPPED: this process is already one of those")
	}
	tried := make(map[string]string) // the interpreter by the library
	if own, err := pythons().Find(t.Context(), Request{SearchPath: os.Getenv("PATH")}); err == nil {
		tried[own.Path] = "this process"
		t.Logf("%s, Python %s: this process", own.Path, own.Version)
	}
	for _, python := range installed(t) {
		lib, err := (*Finder)(nil).Find(t.Context(), Request{Interpreter: python})
		if err != nil {
			if !core.IsCode(err, core.CodeUnsupported) {
				t.Errorf("%s: %v", python, err)
			}
			t.Logf("%s is not usable: %v", python, err)
			continue
		}
		if by, ok := tried[lib.Path]; ok {
			t.Logf("%s has the library of %s", python, by)
			continue
		}
		tried[lib.Path] = python
		t.Run(python, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^Test[A-DF-Q]|^TestErrors|^TestEqual", "-test.count=1")
			// The race detector's pause at the end finds nothing that goleak does not.
			cmd.Env = append(os.Environ(), pythonEnv+"="+python, "GORACE=atexit_sleep_ms=0")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%s: %v\n%s", lib.Path, err, out)
			}
			t.Logf("%s, Python %s", lib.Path, lib.Version)
		})
	}
}

// installed lists the interpreters of the machine: on PATH, the system's, those of
// version managers, and a virtual environment of the first.
func installed(t *testing.T) []string {
	t.Helper()
	list := candidates(Request{SearchPath: os.Getenv("PATH")})
	home, err := os.UserHomeDir()
	if err != nil {
		t.Log(err)
	}
	for _, pattern := range []string{"/usr/bin/python3.*", "/usr/local/bin/python3.*", "/opt/python*/bin/python3", home + "/.pyenv/versions/*/bin/python3"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, found...)
	}
	seen := make(map[string]bool)
	var out []string
	for _, path := range list {
		real, err := filepath.EvalSymlinks(path)
		if err != nil || seen[real] || strings.HasSuffix(path, "-config") {
			continue
		}
		seen[real] = true
		out = append(out, path)
	}
	return out
}

// TestVirtualEnvironment embeds the Python of a virtual environment: its prefix
// and its packages must be seen.
func TestVirtualEnvironment(t *testing.T) {
	const inside = "ROLLOUT_TEST_VENV"
	if venv := os.Getenv(inside); venv != "" {
		i := start(t, spec(t, "habits", "habits"))
		about := strings.Split(mustCall(t, i, "about", ""), "\n")
		if about[0] != filepath.Join(venv, "bin", "python3") || about[1] != venv {
			t.Errorf("executable %s, prefix %s, want those of %s", about[0], about[1], venv)
		}
		return
	}
	lib := interpreter(t).lib
	venv := filepath.Join(t.TempDir(), "venv")
	if out, err := exec.CommandContext(t.Context(), lib.Executable, "-m", "venv", "--without-pip", venv).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: %s cannot make virtual environments: %v\n%s", lib.Executable, err, out)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestVirtualEnvironment$", "-test.count=1", "-test.v")
	cmd.Env = append(os.Environ(), pythonEnv+"="+filepath.Join(venv, "bin", "python3"), inside+"="+venv)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
