//go:build cgo && linux

package pluginhost

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/ctest"
)

// example returns the absolute path of something below examples/plugins.
func example(t testing.TB, elem ...string) string {
	t.Helper()
	return filepath.Join(append([]string{ctest.Root(t), "examples", "plugins"}, elem...)...)
}

// readExample reads the manifest of an example as it is, beside a copy of its
// files and the library that was built from them.
func readExample(t testing.TB, name, library string) core.Manifest {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(example(t, name))); err != nil {
		t.Fatal(err)
	}
	if library != "" {
		b, err := os.ReadFile(library)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, filepath.Base(library)), b, 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	m, err := ReadManifest(filepath.Join(dir, "rollout-plugin.toml"), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	m.Runtime.StartTimeout = patience
	return m
}

// rustLibrary compiles one source file with plain rustc.
func rustLibrary(t testing.TB, source, name string) string {
	t.Helper()
	rustc, err := exec.LookPath("rustc")
	if err != nil {
		t.Skip("SKIPPED: rustc is not on PATH, the Rust sample is not tried")
	}
	out := filepath.Join(t.TempDir(), "lib"+name+".so")
	ctest.Run(t, rustc, "--edition", "2021", "--crate-type", "cdylib", "-O", "-o", out, source)
	return out
}

func TestSampleC(t *testing.T) {
	h, _ := testHost(t, nil)
	path := ctest.Library(t, example(t, "c", "wordcount.c"))
	for mode, isolated := range soModes {
		m := readExample(t, "c", path)
		m.Name += "-" + mode
		m.Isolated = isolated
		mustLoad(t, h, m)
		if got := mustCall(t, h, m.Name, "count", " two  words\n"); got != "2" {
			t.Errorf("%s: count = %q", mode, got)
		}
		if got := mustCall(t, h, m.Name, "count", ""); got != "0" {
			t.Errorf("%s: count of nothing = %q", mode, got)
		}
		if _, err := h.Call(t.Context(), m.Name, "absent", nil); !core.IsCode(err, core.CodePluginContract) {
			t.Errorf("%s: unknown method: %v", mode, err)
		}
	}
}

func TestSampleRust(t *testing.T) {
	h, _ := testHost(t, nil)
	m := readExample(t, "rust", rustLibrary(t, example(t, "rust", "plugin.rs"), "histogram"))
	mustLoad(t, h, m)
	if got := mustCall(t, h, "histogram", "histogram", "Hello, all"); got != "a=1 e=1 h=1 l=4 o=1" {
		t.Errorf("histogram = %q", got)
	}
	results, err := h.CallBatch(t.Context(), "histogram", "histogram", [][]byte{[]byte("aa"), nil, []byte("b")})
	if err != nil || len(results) != 3 || string(results[0].Result) != "a=2" || len(results[1].Result) != 0 || string(results[2].Result) != "b=1" {
		t.Errorf("batch = %v, %v", results, err)
	}
	if _, err := h.Call(t.Context(), "histogram", "absent", nil); !core.IsCode(err, core.CodePluginContract) || !strings.Contains(err.Error(), "no method absent") {
		t.Errorf("unknown method: %v", err)
	}
}

// TestSampleRustV1 loads a plugin as written for the Rust original, in the worker
// and in a process of its own.
func TestSampleRustV1(t *testing.T) {
	h, _ := testHost(t, nil)
	path := rustLibrary(t, example(t, "original-cdylib", "plugin.rs"), "sample_cdylib")
	for mode, isolated := range soModes {
		m := readExample(t, "original-cdylib", path)
		m.Name += "-" + mode
		m.Isolated = isolated
		mustLoad(t, h, m)
		if got := mustCall(t, h, m.Name, "reverse", "abc"); got != "cba" {
			t.Errorf("%s: reverse = %q", mode, got)
		}
		if got := mustCall(t, h, m.Name, "echo", ""); got != "" {
			t.Errorf("%s: echo of nothing = %q", mode, got)
		}
		for method, text := range map[string]string{"absent": "no method absent", "panic": "the plugin panicked"} {
			if _, err := h.Call(t.Context(), m.Name, method, nil); !core.IsCode(err, core.CodePluginError) || !strings.Contains(err.Error(), text) {
				t.Errorf("%s: %s: %v", mode, method, err)
			}
		}
	}
}

// TestSampleGo runs a library with a Go runtime of its own in an isolated child,
// which is a Go program too: both collectors and many threads are kept busy.
func TestSampleGo(t *testing.T) {
	gotool := filepath.Join(runtime.GOROOT(), "bin", "go")
	out := filepath.Join(t.TempDir(), "libgoupper.so")
	ctest.Run(t, gotool, "build", "-buildmode=c-shared", "-o", out, example(t, "go-so"))
	h, rec := testHost(t, nil)
	m := readExample(t, "go-so", out)
	mustLoad(t, h, m)
	if got := mustCall(t, h, "go-upper", "upper", "loud"); got != "LOUD" {
		t.Errorf("upper = %q", got)
	}
	if _, err := h.Call(t.Context(), "go-upper", "absent", nil); !core.IsCode(err, core.CodePluginContract) {
		t.Errorf("unknown method: %v", err)
	}
	var callers sync.WaitGroup
	for c := range 8 {
		callers.Go(func() {
			for n := range 250 {
				method, payload := "upper", fmt.Sprintf("caller %d round %d", c, n)
				if n%50 == 0 {
					method, payload = "collect", ""
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				got, err := h.Call(ctx, "go-upper", method, []byte(payload))
				cancel()
				if err != nil || string(got) != strings.ToUpper(payload) {
					t.Errorf("%s: %q, %v", method, got, err)
					return
				}
			}
		})
	}
	callers.Wait()
	if n := rec.count(core.TopicPluginCrashed); n > 0 {
		t.Errorf("the child crashed %d times", n)
	}
}
