//go:build cgo && linux

package pluginhost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/ctest"
)

// habits is the library that the tests of package cabi use too.
const habits = "internal/cabi/testdata/v2.c"

func soManifest(path, name string) core.Manifest {
	return core.Manifest{
		Name: name, Version: "1.0.0", Kind: core.KindCustom, Mode: core.ModeSO,
		Dir: filepath.Dir(path), Path: filepath.Join(filepath.Dir(path), "rollout-plugin.toml"),
		Runtime: core.Runtime{Concurrency: 1, StartTimeout: patience, CallTimeout: 30 * time.Second},
		SO:      core.SOEntry{Path: path, Symbol: "rollout_plugin_factory"},
	}
}

// soModes are both ways to run a library.
var soModes = map[string]bool{"in-process": false, "isolated": true}

func TestSO(t *testing.T) {
	path := ctest.Library(t, habits)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	pin := hex.EncodeToString(sum[:])
	for mode, isolated := range soModes {
		t.Run(mode, func(t *testing.T) {
			h, _ := testHost(t, nil)
			m := soManifest(path, "habits")
			m.Isolated = isolated
			m.SO.SHA256 = pin
			m.Config = map[string]any{"a": 1}
			info := mustLoad(t, h, m)
			if !isolated && !slices.Contains(info.Containment.Enforced, "sha256") {
				t.Errorf("containment = %+v", info.Containment)
			}
			if (info.PID != 0) != isolated {
				t.Errorf("pid = %d", info.PID)
			}
			if got := mustCall(t, h, "habits", "config", ""); got != `{"a":1}` {
				t.Errorf("config = %s", got)
			}
			if got := mustCall(t, h, "habits", "ready", ""); got != "1" {
				t.Errorf("init and preflight: %s", got)
			}
			payload := bytes.Repeat([]byte{0, 1, 0xff}, 1000)
			if got := mustCall(t, h, "habits", "echo", string(payload)); got != string(payload) {
				t.Error("echo changed the payload")
			}
			for method, code := range map[string]core.Code{
				"fail": core.CodePluginError, "unheard-of": core.CodePluginContract,
				"null-length": core.CodePluginContract, "huge": core.CodeTooLarge,
			} {
				if _, err := h.Call(t.Context(), "habits", method, nil); !core.IsCode(err, code) {
					t.Errorf("%s: %v", method, err)
				}
			}
			results, err := h.CallBatch(t.Context(), "habits", "echo", [][]byte{{1}, []byte("bad"), nil})
			if err != nil || len(results) != 3 || string(results[0].Result) != "\x01" || !core.IsCode(results[1].Err, core.CodePluginError) || results[2].Err != nil {
				t.Errorf("batch: %v, %v", results, err)
			}
			if got := mustCall(t, h, "habits", "live", ""); got != "0" {
				t.Errorf("%s bufs were not given back", got)
			}
			if _, err := h.Reload(t.Context(), m); !core.IsCode(err, core.CodePluginContract) {
				t.Errorf("reload: %v", err)
			}
		})
	}
}

func TestSOInstancesAreIsolated(t *testing.T) {
	path := ctest.Library(t, habits)
	h, _ := testHost(t, nil)
	for i := range 3 {
		m := soManifest(path, fmt.Sprint("habits-", i))
		m.Config = map[string]any{"n": i}
		mustLoad(t, h, m)
	}
	for i := range 3 {
		name := fmt.Sprint("habits-", i)
		if got := mustCall(t, h, name, "config", ""); got != fmt.Sprintf(`{"n":%d}`, i) {
			t.Errorf("%s: config = %s", name, got)
		}
		if got := mustCall(t, h, name, "calls", ""); got != "2" {
			t.Errorf("%s: call number %s, want 2", name, got)
		}
	}
}

func TestSOFailedLoadsLeaveNothing(t *testing.T) {
	path := ctest.Library(t, habits)
	sum := sha256.Sum256([]byte("another file"))
	tests := map[string]struct {
		change func(*core.Manifest)
		code   core.Code
	}{
		"refused by init":      {func(m *core.Manifest) { m.Config = map[string]any{"refuse": true} }, core.CodePluginError},
		"refused by preflight": {func(m *core.Manifest) { m.Config = map[string]any{"unfit": true} }, core.CodePluginError},
		"no symbol":            {func(m *core.Manifest) { m.SO.Symbol = "absent" }, core.CodePluginContract},
		"wrong pin":            {func(m *core.Manifest) { m.SO.SHA256 = hex.EncodeToString(sum[:]) }, core.CodePermissionDenied},
		"no file":              {func(m *core.Manifest) { m.SO.Path += ".absent" }, core.CodeNotFound},
		"containment required": {func(m *core.Manifest) { m.Sandbox.Require = true }, core.CodeUnsupported},
	}
	h, _ := testHost(t, nil)
	for name, tt := range tests {
		m := soManifest(path, "habits")
		tt.change(&m)
		if _, err := h.Load(t.Context(), m); !core.IsCode(err, tt.code) {
			t.Errorf("%s: code %v, %v", name, core.CodeOf(err), err)
		}
	}
	if got := h.Plugins(); len(got) != 0 {
		t.Errorf("plugins after failed loads: %v", got)
	}
	mustLoad(t, h, soManifest(path, "habits"))
}

func TestSOHangingCallPoisons(t *testing.T) {
	h, _ := testHost(t, nil)
	path := ctest.Library(t, habits)
	mustLoad(t, h, soManifest(path, "stuck"))
	mustLoad(t, h, soManifest(path, "other"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close() // lets the call return
		r.Close()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.Call(ctx, "stuck", "wait", fmt.Append(nil, r.Fd())); !core.IsCode(err, core.CodeDeadlineExceeded) {
		t.Errorf("hanging call: %v", err)
	}
	if _, err := h.Call(t.Context(), "stuck", "echo", nil); !core.IsCode(err, core.CodePluginPoisoned) {
		t.Errorf("call after it: %v", err)
	}
	if got := mustCall(t, h, "other", "echo", "fine"); got != "fine" {
		t.Errorf("the other plugin: %q", got)
	}
	if err := h.Unload(t.Context(), "stuck"); err != nil {
		t.Errorf("unload: %v", err)
	}
}

// TestSOCrashOfAnIsolatedLibrary loads a library that ends its process: calls fail
// typed, and the next ones reach a new process.
func TestSOCrashOfAnIsolatedLibrary(t *testing.T) {
	dir := writeFiles(t, map[string]string{"crash.c": `
#include "rollout_plugin.h"
static int32_t call(const uint8_t *m, size_t ml, const uint8_t *p, size_t pl, struct rollout_buf *out)
{
    if (rollout_is(m, ml, "crash"))
        *(volatile int *)0 = 1;
    return rollout_reply(out, p, pl);
}
static const struct rollout_plugin_v1 table = {1, "crash", call, rollout_free};
const struct rollout_plugin_v1 *rollout_plugin_factory(void) { return &table; }
`})
	h, rec := testHost(t, nil)
	m := soManifest(ctest.Library(t, filepath.Join(dir, "crash.c")), "crash")
	m.Isolated = true
	mustLoad(t, h, m)
	for range 3 {
		if got := mustCall(t, h, "crash", "echo", "alive"); got != "alive" {
			t.Errorf("echo = %q", got)
		}
		if _, err := h.Call(t.Context(), "crash", "crash", nil); !core.IsCode(err, core.CodePluginCrashed) || !strings.Contains(err.Error(), "segmentation fault") {
			t.Errorf("crash: %v", err)
		}
	}
	if got := mustCall(t, h, "crash", "echo", "again"); got != "again" {
		t.Errorf("echo = %q", got)
	}
	if n := rec.count(core.TopicPluginCrashed); n != 3 {
		t.Errorf("%d crashes were reported, want 3", n)
	}
}

func TestSOShutdownRuns(t *testing.T) {
	path, marker := ctest.Library(t, habits), filepath.Join(t.TempDir(), "marker")
	h, rec := testHost(t, nil)
	m := soManifest(path, "inside")
	m.Config = map[string]any{"marker": marker}
	mustLoad(t, h, m)
	m = soManifest(path, "outside")
	m.Isolated = true
	m.Config = map[string]any{"farewell": true}
	mustLoad(t, h, m)
	for _, name := range []string{"inside", "outside"} {
		if err := h.Unload(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(marker); err != nil || string(b) != "shutdown 1\n" {
		t.Errorf("marker = %q, %v", b, err)
	}
	rec.wait(t, "the isolated library's shutdown", func(ev core.PluginEvent) bool { return ev.Line == "shutdown 1" })
}

func TestSOThreadSafeCallsOverlap(t *testing.T) {
	h, _ := testHost(t, nil)
	m := soManifest(ctest.Library(t, habits, "-DFLAGS=1"), "habits")
	m.Runtime.Concurrency = 4
	mustLoad(t, h, m)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var calls sync.WaitGroup
	for range 3 {
		calls.Go(func() {
			if got := mustCall(t, h, "habits", "wait", fmt.Sprint(r.Fd())); got != "woke" {
				t.Errorf("wait = %q", got)
			}
		})
	}
	if got := mustCall(t, h, "habits", "echo", "beside"); got != "beside" {
		t.Errorf("echo = %q", got)
	}
	w.Close()
	calls.Wait()
}
