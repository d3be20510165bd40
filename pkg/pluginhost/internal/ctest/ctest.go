// Package ctest builds the C code of tests into shared libraries.
package ctest

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// TB is what is needed of a [testing.TB]. Only tests have one, and this package is
// not one of them.
type TB interface {
	// Context ends with the test.
	Context() context.Context
	// Fatal fails the test and ends it.
	Fatal(args ...any)
	// Fatalf fails the test and ends it.
	Fatalf(format string, args ...any)
	// Helper marks the caller as a helper.
	Helper()
	// TempDir makes a directory that goes with the test.
	TempDir() string
}

// Root returns the absolute directory of the module.
func Root(t TB) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("the runtime does not know where this source file is")
	}
	return filepath.Join(filepath.Dir(file), "..", "..", "..", "..")
}

// Compiler returns the C compiler: CC, or the first of cc, gcc and clang.
func Compiler(t TB) []string {
	t.Helper()
	if cc := strings.Fields(os.Getenv("CC")); len(cc) > 0 {
		return cc
	}
	for _, name := range []string{"cc", "gcc", "clang"} {
		if path, err := exec.LookPath(name); err == nil {
			return []string{path}
		}
	}
	t.Fatal("no C compiler on PATH: install gcc and libc6-dev")
	return nil
}

// Library compiles source into a shared library in a directory of its own and
// returns the library's path. Flags follow the usual ones, such as -DX=1.
func Library(t TB, source string, flags ...string) string {
	t.Helper()
	name := "lib" + strings.TrimSuffix(filepath.Base(source), ".c") + ".so"
	out := filepath.Join(t.TempDir(), name)
	args := append(Compiler(t), "-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror",
		"-I"+filepath.Join(Root(t), "include"), "-o", out, source)
	Run(t, append(args, flags...)...)
	return out
}

// Run runs a build command and fails the test with its output when it fails.
func Run(t TB, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), args[0], args[1:]...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
