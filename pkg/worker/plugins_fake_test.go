package worker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// fakeHost is a plugin host whose plugins are one function.
type fakeHost struct {
	answer func(ctx context.Context, plugin, method string, payload []byte) ([]byte, error)
	batch  func(payloads [][]byte) ([]core.CallResult, error) // nil: answer, one by one
	start  func(name string) error                            // nil: every plugin starts

	// mu guards the fields below.
	mu       sync.Mutex
	loaded   map[string]core.PluginInfo
	order    []string // names, as they were loaded
	reloads  []string
	calls    int
	batches  []int // sizes
	shutdown int
}

func newFakeHost(answer func(ctx context.Context, plugin, method string, payload []byte) ([]byte, error)) *fakeHost {
	return &fakeHost{answer: answer, loaded: map[string]core.PluginInfo{}}
}

func (h *fakeHost) Load(_ context.Context, m core.Manifest) (core.PluginInfo, error) {
	if h.start != nil {
		if err := h.start(m.Name); err != nil {
			return core.PluginInfo{}, err
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	info := core.PluginInfo{Name: m.Name, ID: m.ID(), Version: m.Version, Digest: m.Digest, Mode: m.Mode, CallTimeout: m.Runtime.CallTimeout, Generation: 1}
	h.loaded[m.Name] = info
	h.order = append(h.order, m.Name)
	return info, nil
}

func (h *fakeHost) Call(ctx context.Context, plugin, method string, payload []byte) ([]byte, error) {
	h.mu.Lock()
	h.calls++
	h.mu.Unlock()
	return h.answer(ctx, plugin, method, payload)
}

func (h *fakeHost) CallBatch(ctx context.Context, plugin, method string, payloads [][]byte) ([]core.CallResult, error) {
	h.mu.Lock()
	h.batches = append(h.batches, len(payloads))
	h.mu.Unlock()
	if h.batch != nil {
		return h.batch(payloads)
	}
	out := make([]core.CallResult, len(payloads))
	for i, p := range payloads {
		out[i].Result, out[i].Err = h.answer(ctx, plugin, method, p)
	}
	return out, nil
}

func (h *fakeHost) Plugins() []core.PluginInfo {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []core.PluginInfo
	for _, name := range slices.Sorted(maps.Keys(h.loaded)) {
		out = append(out, h.loaded[name])
	}
	return out
}

func (h *fakeHost) Unload(context.Context, string) error { return nil }

func (h *fakeHost) Shutdown(context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.shutdown++
	clear(h.loaded)
	return nil
}

func (h *fakeHost) Reload(_ context.Context, m core.Manifest) (core.PluginInfo, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reloads = append(h.reloads, m.Name)
	info := h.loaded[m.Name]
	info.Digest = m.Digest
	info.Generation++
	h.loaded[m.Name] = info
	return info, nil
}

// reloaded returns how often a plugin was exchanged.
func (h *fakeHost) reloaded() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.reloads)
}

// fixed is a host that cannot exchange plugins.
type fixed struct{ core.PluginHost }

// manifestOf resolves a reference to a manifest of the same name.
func manifestOf(ref string) (core.Manifest, error) {
	return core.Manifest{Name: ref, Version: "0.1.0", Digest: "d-" + ref, Mode: core.ModePython}, nil
}

// startPlugins returns an executor that has loaded what refs name.
func startPlugins(t *testing.T, cfg PluginsConfig, refs ...string) *Plugins {
	t.Helper()
	cfg.Refs = refs
	if cfg.Resolve == nil {
		cfg.Resolve = manifestOf
	}
	p, err := NewPlugins(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Init(t.Context(), core.WorkerInfo{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return p
}

// echoed answers the payload.
func echoed(_ context.Context, _, _ string, payload []byte) ([]byte, error) { return payload, nil }

// work makes items for a plugin.
func work(plugin string, payloads ...string) (out []core.WorkItem) {
	for i, p := range payloads {
		out = append(out, core.WorkItem{Lease: core.Lease{Item: core.ItemID(i + 1)}, Plugin: plugin, Method: "m", Payload: []byte(p), Attempt: 1})
	}
	return out
}
