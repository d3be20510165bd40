//go:build cgo && linux

package pluginhost

import (
	"fmt"
	"os"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/ctest"
)

// hold returns a payload for the method wait, which lasts until the test ends.
func hold(t *testing.T) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		w.Close() // lets the calls return
		r.Close()
	})
	return fmt.Sprint(r.Fd())
}

// habitsFixture describes the library of version 2 that the tests of package cabi
// use too.
func habitsFixture(t *testing.T, h *Host, path string, change func(*core.Manifest)) *coretest.PluginHostFixture {
	named := func(name string) core.Manifest {
		m := soManifest(path, name)
		if change != nil {
			change(&m)
		}
		return m
	}
	return &coretest.PluginHostFixture{
		Host: h, Manifest: named,
		Broken: func(name string) core.Manifest {
			m := named(name)
			m.Config = map[string]any{"refuse": true}
			return m
		},
		BrokenText: "refused by config",
		Echo:       "echo",
		Fail:       coretest.PluginCall{Method: "fail"}, FailText: "failed as asked",
		Hint:     coretest.PluginCall{Method: "after"},
		Huge:     coretest.PluginCall{Method: "huge"},
		Unknown:  "unheard-of",
		NoReload: true,
	}
}

func TestKitSO(t *testing.T) {
	for name, flags := range map[string][]string{
		"serial": nil, "thread-safe": {"-DFLAGS=1"}, "without call_batch": {"-DNO_BATCH", "-Wno-unused-function"},
	} {
		path := ctest.Library(t, habits, flags...)
		t.Run(name, func(t *testing.T) {
			coretest.RunPluginHost(t, func(t *testing.T) *coretest.PluginHostFixture {
				h, _ := testHost(t, nil)
				f := habitsFixture(t, h, path, func(m *core.Manifest) { m.Runtime.Concurrency = 4 })
				f.Hang = coretest.PluginCall{Method: "wait", Payload: hold(t)}
				f.Poisons = true
				return f
			})
		})
	}
}

func TestKitSOV1(t *testing.T) {
	path := ctest.Library(t, "internal/cabi/testdata/v1.c")
	coretest.RunPluginHost(t, func(t *testing.T) *coretest.PluginHostFixture {
		h, _ := testHost(t, nil)
		return &coretest.PluginHostFixture{
			Host:     h,
			Manifest: func(name string) core.Manifest { return soManifest(path, name) },
			Echo:     "echo",
			Fail:     coretest.PluginCall{Method: "fail"}, FailText: "failed as asked",
			Hang:     coretest.PluginCall{Method: "wait", Payload: hold(t)},
			Poisons:  true,
			NoReload: true,
		}
	})
}

func TestKitSOIsolated(t *testing.T) {
	path := ctest.Library(t, habits, "-DFLAGS=1")
	coretest.RunPluginHost(t, func(t *testing.T) *coretest.PluginHostFixture {
		h, _ := testHost(t, nil)
		f := habitsFixture(t, h, path, func(m *core.Manifest) {
			m.Isolated = true
			m.Runtime.Concurrency = 4
		})
		f.Hang = coretest.PluginCall{Method: "sleep"}
		f.Crash = coretest.PluginCall{Method: "crash"}
		return f
	})
}

func TestKitPython(t *testing.T) {
	dir := writeFiles(t, map[string]string{"sample.py": samplePlugin})
	for _, concurrency := range []int{1, 3} {
		t.Run(fmt.Sprintf("concurrency %d", concurrency), func(t *testing.T) {
			coretest.RunPluginHost(t, func(t *testing.T) *coretest.PluginHostFixture {
				h, _ := testHost(t, nil)
				m := embedded(t, dir, "p", "sample")
				m.Runtime.Concurrency = concurrency
				f := pythonSampleFixture(h, m)
				f.Hang = coretest.PluginCall{Method: "spin", Payload: "60"} // a sleep cannot be interrupted
				f.Crash = coretest.PluginCall{}
				return f
			})
		})
	}
}
