package pyembed

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// script writes an executable that stands for an interpreter.
func script(t *testing.T, dir, text string) string {
	t.Helper()
	path := filepath.Join(dir, "python3")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// says is a script that answers like an interpreter.
func says(version, libdir, library string) string {
	return fmt.Sprintf("echo noise; echo 'rollout:{\"version\":%q,\"executable\":\"/x/python3\",\"libdir\":%q,\"library\":%q}'\n", version, libdir, library)
}

func TestFindExplains(t *testing.T) {
	tests := map[string]string{
		"exit 3\n": "exit status 3",
		"echo >&2 first; echo >&2 the last line; exit 1\n": "the last line",
		"echo hello\n": "is no Python",
		says("3.10.9", "/nowhere", "libpython3.10.so.1.0"):                 "is Python 3.10.9, and 3.11 is needed",
		says("3.11.2", "/nowhere", "libpython3.11.a"):                      "without a shared library",
		says("3.11.2", "/nowhere", "libpython3.11.so.1.0"):                 "such as libpython3.11",
		"echo 'rollout:{\"version\":\"3.13.0\",\"free_threaded\":true}'\n": "global lock",
	}
	for text, want := range tests {
		dir := t.TempDir()
		path := script(t, dir, text)
		for _, r := range []Request{{Interpreter: path}, {SearchPath: dir}} {
			_, err := (&Finder{}).Find(t.Context(), r)
			if !core.IsCode(err, core.CodeUnsupported) || !strings.Contains(err.Error(), want) {
				t.Errorf("%q: %v, want %q", text, err, want)
			}
		}
	}
	if _, err := (&Finder{}).Find(t.Context(), Request{SearchPath: t.TempDir()}); !core.IsCode(err, core.CodeUnsupported) || !strings.Contains(err.Error(), "no python3 is on PATH") {
		t.Errorf("no python: %v", err)
	}
	if _, err := (&Finder{}).Find(t.Context(), Request{MinVersion: "three"}); !core.IsCode(err, core.CodeConfigInvalid) {
		t.Errorf("bad minimum: %v", err)
	}
}

func TestFindTakesTheFirstUsable(t *testing.T) {
	old, lib, good := t.TempDir(), t.TempDir(), t.TempDir()
	script(t, old, says("3.9.1", lib, "libpython3.9.so"))
	path := script(t, good, says("3.12.1", lib, "libpython3.12.so"))
	if err := os.WriteFile(filepath.Join(lib, "libpython3.12.so"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f := &Finder{}
	r := Request{SearchPath: old + ":" + "relative" + ":" + good}
	got, err := f.Find(t.Context(), r)
	if err != nil || got.Path != filepath.Join(lib, "libpython3.12.so") || got.Executable != "/x/python3" || got.Version != "3.12.1" {
		t.Fatalf("%+v, %v", got, err)
	}
	// The answer is remembered until the interpreter's file changes.
	if err := os.Remove(filepath.Join(lib, "libpython3.12.so")); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Find(t.Context(), r); err != nil {
		t.Errorf("second question: %v", err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\nexit 9\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Find(t.Context(), r); !core.IsCode(err, core.CodeUnsupported) {
		t.Errorf("question after a change: %v", err)
	}
	if _, err := f.Find(t.Context(), Request{SearchPath: good, MinVersion: "3.13"}); !core.IsCode(err, core.CodeUnsupported) {
		t.Errorf("newer one asked for: %v", err)
	}
}

func TestOtherLibraryIsRefused(t *testing.T) {
	interpreter(t)
	other := filepath.Join(t.TempDir(), "libpython3.99.so")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Library{Path: other}, ""); !core.IsCode(err, core.CodeFailedPrecondition) || !strings.Contains(err.Error(), other) {
		t.Errorf("second library: %v", err)
	}
}
