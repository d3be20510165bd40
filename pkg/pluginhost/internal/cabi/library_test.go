//go:build cgo && linux

package cabi

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/ctest"
)

const factory = "rollout_plugin_factory"

func openBuilt(t testing.TB, source string, flags ...string) *Library {
	t.Helper()
	lib, err := Open(Options{Path: ctest.Library(t, source, flags...), Symbol: factory, CopyDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return lib
}

func mustCall(t testing.TB, lib *Library, method, payload string) string {
	t.Helper()
	out, err := lib.Call(method, []byte(payload))
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return string(out)
}

func TestCallBothVersions(t *testing.T) {
	for _, source := range []string{"testdata/v1.c", "testdata/v2.c"} {
		t.Run(filepath.Base(source), func(t *testing.T) {
			lib := openBuilt(t, source)
			for _, n := range []int{0, 1, 100, 64 << 10, core.MaxCallPayload} {
				payload := bytes.Repeat([]byte{0, 0xff, 'a'}, n/3+1)[:n]
				out, err := lib.Call("echo", payload)
				if err != nil || !bytes.Equal(out, payload) {
					t.Fatalf("echo of %d bytes: %d bytes, %v", n, len(out), err)
				}
			}
			if live := mustCall(t, lib, "live", ""); live != "0" {
				t.Errorf("%s bufs were not given back", live)
			}
		})
	}
}

func TestTableIsRead(t *testing.T) {
	v1, v2 := openBuilt(t, "testdata/v1.c"), openBuilt(t, "testdata/v2.c", "-DFLAGS=1")
	if v1.ABI() != 1 || v1.Name() != "old-timer" || v1.ThreadSafe() || v1.HasBatch() {
		t.Errorf("v1 reads as %+v", v1)
	}
	if v2.ABI() != 2 || v2.Name() != "habits" || v2.Version() != "2.0.0" || !v2.ThreadSafe() || !v2.HasBatch() {
		t.Errorf("v2 reads as %+v", v2)
	}
}

func TestInitAndPreflight(t *testing.T) {
	lib := openBuilt(t, "testdata/v2.c")
	if err := lib.Init([]byte(`{"a":1}`)); err != nil {
		t.Fatal(err)
	}
	if err := lib.Preflight(); err != nil {
		t.Fatal(err)
	}
	if got := mustCall(t, lib, "config", ""); got != `{"a":1}` {
		t.Errorf("config = %s", got)
	}
	if err := lib.Init([]byte(`{"refuse":true}`)); !core.IsCode(err, core.CodePluginError) || !strings.Contains(err.Error(), "refused by config") {
		t.Errorf("refusing init: %v", err)
	}
	if err := lib.Init([]byte(`{"unfit":true}`)); err != nil {
		t.Fatal(err)
	}
	if err := lib.Preflight(); !core.IsCode(err, core.CodePluginError) || core.RetryOf(err).Kind != core.RetryBackoff {
		t.Errorf("unfit preflight: %v, retry %v", err, core.RetryOf(err))
	}
}

func TestEachLoadHasItsOwnVariables(t *testing.T) {
	path := ctest.Library(t, "testdata/v2.c")
	for _, pin := range []string{"", fileSHA256(t, path)} {
		for range 2 {
			lib, err := Open(Options{Path: path, Symbol: factory, SHA256: pin, CopyDir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			if got := mustCall(t, lib, "calls", ""); got != "1" {
				t.Errorf("pin %q: first call is number %s", pin, got)
			}
		}
	}
}

func TestOpenLeavesNoCopy(t *testing.T) {
	dir := t.TempDir()
	for _, source := range []string{"testdata/v2.c", "testdata/silent.c"} {
		path := ctest.Library(t, source)
		if _, err := Open(Options{Path: path, Symbol: factory, CopyDir: dir}); (err != nil) != strings.Contains(source, "silent") {
			t.Fatalf("%s: %v", source, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("copies left behind: %v, %v", entries, err)
	}
}

func TestPluginErrorsAreTyped(t *testing.T) {
	v2, v1 := openBuilt(t, "testdata/v2.c"), openBuilt(t, "testdata/v1.c")
	tests := []struct {
		lib    *Library
		method string
		code   core.Code
		text   string
		retry  core.RetryHint
	}{
		{v2, "fail", core.CodePluginError, "failed as asked", core.RetryHint{}},
		{v2, "silent", core.CodePluginError, "the plugin returned 7", core.RetryHint{}},
		{v2, "throttled", core.CodePluginError, "busy", core.CodeThrottled.DefaultRetry()},
		{v2, "after", core.CodePluginError, "later", core.RetryHint{Kind: core.RetryAfter, After: 1500 * time.Millisecond}},
		{v2, "unheard-of", core.CodePluginContract, "no such method", core.RetryHint{}},
		{v2, "null-length", core.CodePluginContract, "NULL with a length of 10", core.RetryHint{}},
		{v2, "long-length", core.CodePluginContract, "exceeds its capacity", core.RetryHint{}},
		{v2, "fail-long-length", core.CodePluginContract, "exceeds its capacity", core.RetryHint{}},
		{v2, "huge", core.CodeTooLarge, "16777217 bytes", core.RetryHint{}},
		{v1, "fail", core.CodePluginError, "failed as asked", core.RetryHint{}},
		{v1, "silent", core.CodePluginError, "the plugin returned 9", core.RetryHint{}},
	}
	for _, tt := range tests {
		out, err := tt.lib.Call(tt.method, []byte("x"))
		if out != nil || !core.IsCode(err, tt.code) || !strings.Contains(err.Error(), tt.text) || core.RetryOf(err) != tt.retry {
			t.Errorf("v%d %s: %q, code %v, %v, retry %v", tt.lib.ABI(), tt.method, out, core.CodeOf(err), err, core.RetryOf(err))
		}
	}
	for _, method := range []string{"empty", "nothing"} {
		if out, err := v2.Call(method, nil); len(out) != 0 || err != nil {
			t.Errorf("%s: %q, %v", method, out, err)
		}
	}
	for _, lib := range []*Library{v1, v2} {
		if live := mustCall(t, lib, "live", ""); live != "0" {
			t.Errorf("v%d: %s bufs were not given back", lib.ABI(), live)
		}
	}
	var class *core.Error
	_, err := v2.Call("throttled", nil)
	if inner := errors.Unwrap(err); !errors.As(errors.Unwrap(inner), &class) && !errors.As(inner, &class) {
		t.Errorf("the plugin's own class is lost: %v", err)
	}
}

func TestBatch(t *testing.T) {
	lib := openBuilt(t, "testdata/v2.c")
	payloads := make([][]byte, core.MaxBatchLen)
	for i := range payloads {
		payloads[i] = fmt.Appendf(nil, "payload %d", i)
	}
	payloads[1], payloads[2] = nil, []byte("bad")
	results, err := lib.CallBatch("echo", payloads)
	if err != nil || len(results) != len(payloads) {
		t.Fatalf("%d results, %v", len(results), err)
	}
	for i, r := range results {
		if i == 2 {
			if !core.IsCode(r.Err, core.CodePluginError) || r.Result != nil {
				t.Errorf("bad item: %q, %v", r.Result, r.Err)
			}
		} else if r.Err != nil || !bytes.Equal(r.Result, payloads[i]) {
			t.Fatalf("item %d: %q, %v", i, r.Result, r.Err)
		}
	}
	results, err = lib.CallBatch("fail-batch", payloads[:5])
	if results != nil || !core.IsCode(err, core.CodePluginError) || core.RetryOf(err).Kind != core.RetryBackoff {
		t.Errorf("failed batch: %v, %v", results, err)
	}
	if live := mustCall(t, lib, "live", ""); live != "0" {
		t.Errorf("%s bufs were not given back", live)
	}
}

// TestR27BrokenLibraries opens every kind of library that must not be called.
func TestR27BrokenLibraries(t *testing.T) {
	breaks := []string{
		1: "no table", 2: "no table", 3: "got 3, expected 1 or 2", 4: "call is NULL", 5: "free_buf is NULL",
		6: "name is NULL", 7: "struct_size", 8: "call is NULL", 9: "unknown bits", 10: "longer than 255", 11: "free_buf is NULL",
	}
	for n, text := range breaks {
		if n == 0 {
			continue
		}
		path := ctest.Library(t, "testdata/broken.c", fmt.Sprintf("-DBREAK=%d", n))
		_, err := Open(Options{Path: path, Symbol: factory, CopyDir: t.TempDir()})
		if !core.IsCode(err, core.CodePluginContract) || !strings.Contains(err.Error(), text) {
			t.Errorf("break %d: %v, want %q", n, err, text)
		}
	}

	good := ctest.Library(t, "testdata/v2.c")
	text := filepath.Join(t.TempDir(), "text.so")
	if err := os.WriteFile(text, []byte("not a library"), 0o600); err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		path, symbol string
		code         core.Code
		text         string
	}{
		{good, "no_such_symbol", core.CodePluginContract, "no symbol no_such_symbol"},
		{text, factory, core.CodePluginContract, text},
		{filepath.Join(t.TempDir(), "absent.so"), factory, core.CodeNotFound, "absent.so"},
		{t.TempDir(), factory, core.CodePluginContract, "not a regular file"},
	}
	for _, c := range cases {
		_, err := Open(Options{Path: c.path, Symbol: c.symbol, CopyDir: t.TempDir()})
		if !core.IsCode(err, c.code) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s %s: %v, want %v %q", c.path, c.symbol, err, c.code, c.text)
		}
	}
}

// TestHeaderCompiles takes the header as the strictest plugin author would.
func TestHeaderCompiles(t *testing.T) {
	include := "-I" + filepath.Join(ctest.Root(t), "include")
	source := filepath.Join(t.TempDir(), "header.c")
	if err := os.WriteFile(source, []byte("#include \"rollout_plugin.h\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cc := ctest.Compiler(t)
	for _, standard := range []string{"c99", "c11", "c17"} {
		ctest.Run(t, append(cc, "-std="+standard, "-pedantic", "-Wall", "-Wextra", "-Wno-unused-function", "-Werror", "-fsyntax-only", include, source)...)
	}
	cxx, err := exec.LookPath("c++")
	if err != nil {
		t.Log("no C++ compiler on PATH: the header is tried as C only")
		return
	}
	ctest.Run(t, cxx, "-std=c++11", "-pedantic", "-Wall", "-Wextra", "-Wno-unused-function", "-Werror", "-fsyntax-only", "-x", "c++", include, source)
}
