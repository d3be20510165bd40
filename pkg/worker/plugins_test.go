package worker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestPluginsNeedAHostAndManifests(t *testing.T) {
	for _, cfg := range []PluginsConfig{{}, {Host: newFakeHost(echoed)}, {Resolve: manifestOf}} {
		if _, err := NewPlugins(cfg); !core.IsCode(err, core.CodeInvalidArgument) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func TestPluginsAreLoadedOnceInOrderAndShutDown(t *testing.T) {
	h := newFakeHost(echoed)
	p := startPlugins(t, PluginsConfig{Host: h}, "c", "a", "b")
	if err := p.Init(t.Context(), core.WorkerInfo{}); err != nil { // a worker that was fenced begins again
		t.Fatal(err)
	}
	if !slices.Equal(h.order, []string{"c", "a", "b"}) {
		t.Errorf("loaded were %v", h.order)
	}
	if ps := p.LoadedPlugins(); len(ps) != 3 || ps[0] != (core.LoadedPlugin{Name: "a", Version: "0.1.0", Digest: "d-a", Mode: core.ModePython}) {
		t.Errorf("told are %+v", ps)
	}
	for range 2 {
		if err := p.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if h.shutdown != 2 || len(p.LoadedPlugins()) != 0 {
		t.Errorf("the host was shut down %d times", h.shutdown)
	}
}

func TestTheFirstPluginThatFailsEndsInit(t *testing.T) {
	h := newFakeHost(echoed)
	h.start = func(name string) error {
		if name == "b" {
			return core.Errorf("", core.CodePluginError, "no model file")
		}
		return nil
	}
	p, err := NewPlugins(PluginsConfig{Host: h, Resolve: manifestOf, Refs: []string{"a", "b", "c"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Init(t.Context(), core.WorkerInfo{}); !core.IsCode(err, core.CodePluginError) || !strings.Contains(err.Error(), "load plugin b") || !slices.Equal(h.order, []string{"a"}) {
		t.Errorf("init answers %v with %v loaded", err, h.order)
	}
	p.cfg.Resolve = func(string) (core.Manifest, error) {
		return core.Manifest{}, core.Errorf("", core.CodeConfigInvalid, "x")
	}
	if err := p.Init(t.Context(), core.WorkerInfo{}); !core.IsCode(err, core.CodeConfigInvalid) {
		t.Errorf("with a bad manifest init answers %v", err)
	}
	if err := p.Shutdown(t.Context()); err != nil || len(p.LoadedPlugins()) != 0 {
		t.Errorf("what was loaded before stays: %v", err)
	}
}

func TestEveryItemGetsItsResult(t *testing.T) {
	h := newFakeHost(func(_ context.Context, plugin, method string, payload []byte) ([]byte, error) {
		if string(payload) == "bad" {
			return nil, core.Errorf("", core.CodePluginError, "refused")
		}
		return []byte(plugin + "." + method + ":" + string(payload)), nil
	})
	p := startPlugins(t, PluginsConfig{Host: h}, "a", "b")
	items := slices.Concat(work("a", "1", "bad", "2"), work("b", "3"), work("gone", "4"), work("a", "5"))
	for i := range items {
		items[i].Lease.Item = core.ItemID(i + 1)
	}
	items[5].Digest = "another"
	for range 3 { // the first time one by one, then in batches
		rs := p.Execute(t.Context(), items)
		for i, want := range []string{"a.m:1", "", "a.m:2", "b.m:3", "", ""} {
			if rs[i].Lease != items[i].Lease || string(rs[i].Result) != want || (rs[i].Err == nil) != (want != "") {
				t.Errorf("item %d: %q, %v", i, rs[i].Result, rs[i].Err)
			}
		}
		if !core.IsCode(rs[1].Err, core.CodePluginError) || !core.IsCode(rs[4].Err, core.CodePreempted) || !core.IsCode(rs[5].Err, core.CodePreempted) {
			t.Errorf("errors are %v, %v, %v", rs[1].Err, rs[4].Err, rs[5].Err)
		}
	}
	if len(h.batches) == 0 || slices.Max(h.batches) != 3 {
		t.Errorf("the batches were %v", h.batches)
	}
}

func TestQuickItemsGoInBatchesAndSlowOnesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		each := time.Millisecond
		h := newFakeHost(func(_ context.Context, _, _ string, payload []byte) ([]byte, error) {
			time.Sleep(each)
			return payload, nil
		})
		p := startPlugins(t, PluginsConfig{Host: h}, "a")
		ten := work("a", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9")
		p.Execute(t.Context(), ten[:1]) // its pace is unknown
		if len(h.batches) != 0 {
			t.Errorf("unknown items went as %v", h.batches)
		}
		p.Execute(t.Context(), ten)
		if !slices.Equal(h.batches, []int{10}) {
			t.Errorf("quick items went as %v", h.batches)
		}
		h.batches = nil
		again := slices.Clone(ten)
		again[4].Attempt = 2
		p.Execute(t.Context(), again)
		if !slices.Equal(h.batches, []int{4, 5}) {
			t.Errorf("with one that failed before they went as %v", h.batches)
		}
		h.batches, each = nil, 10*time.Second
		for range 4 {
			p.Execute(t.Context(), ten[:1])
		}
		p.Execute(t.Context(), ten)
		if len(h.batches) != 0 {
			t.Errorf("slow items went as %v", h.batches)
		}
		h.batches, each = nil, time.Millisecond
		timed := slices.Clone(ten)
		timed[9].Timeout = time.Minute
		for range 60 {
			p.Execute(t.Context(), ten[:1])
		}
		p.Execute(t.Context(), timed)
		if !slices.Equal(h.batches, []int{9}) {
			t.Errorf("with another deadline behind them they went as %v", h.batches)
		}
	})
}

func TestEveryCallHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(func(ctx context.Context, _, _ string, _ []byte) ([]byte, error) {
			<-ctx.Done()
			return nil, core.Wrap("", core.CodeDeadlineExceeded, ctx.Err())
		})
		resolve := func(ref string) (core.Manifest, error) {
			m, err := manifestOf(ref)
			if ref == "quick" {
				m.Runtime.CallTimeout = 5 * time.Second
			}
			return m, err
		}
		p := startPlugins(t, PluginsConfig{Host: h, Resolve: resolve}, "quick", "plain")
		for _, c := range []struct {
			name string
			item core.WorkItem
			want time.Duration
		}{
			{"the manifest's", core.WorkItem{Plugin: "quick"}, 5 * time.Second},
			{"the item's", core.WorkItem{Plugin: "quick", Timeout: time.Minute}, time.Minute},
			{"the default", core.WorkItem{Plugin: "plain"}, 30 * time.Second},
			{"the job's", core.WorkItem{Plugin: "plain", Deadline: time.Now().Add(time.Hour)}, 30 * time.Second},
		} {
			began := time.Now()
			rs := p.Execute(t.Context(), []core.WorkItem{c.item})
			if took := time.Since(began); took != c.want || !core.IsCode(rs[0].Err, core.CodeDeadlineExceeded) {
				t.Errorf("%s: after %v, %v", c.name, took, rs[0].Err)
			}
		}
		began := time.Now()
		p.Execute(t.Context(), []core.WorkItem{{Plugin: "plain", Deadline: began.Add(time.Second)}})
		if took := time.Since(began); took != time.Second {
			t.Errorf("a job's deadline that is near ends the call after %v", took)
		}
	})
}

// A batch over which the plugin dies is tried item by item, so that only the item that
// does it is charged.
func TestABatchThatFailsIsTriedItemByItem(t *testing.T) {
	answer := func(_ context.Context, _, _ string, payload []byte) ([]byte, error) {
		if string(payload) == "poison" {
			return nil, core.Errorf("", core.CodePluginCrashed, "killed")
		}
		return payload, nil
	}
	whole := core.Errorf("", core.CodePluginCrashed, "the process died")
	for name, batch := range map[string]func([][]byte) ([]core.CallResult, error){
		"as a whole": func([][]byte) ([]core.CallResult, error) { return nil, whole },
		"too short":  func([][]byte) ([]core.CallResult, error) { return make([]core.CallResult, 1), nil },
		"item by item": func(ps [][]byte) ([]core.CallResult, error) {
			out := make([]core.CallResult, len(ps))
			for i := range out {
				out[i].Err = whole
			}
			return out, nil
		},
	} {
		h := newFakeHost(answer)
		p := startPlugins(t, PluginsConfig{Host: h}, "a")
		p.Execute(t.Context(), work("a", "warm"))
		h.batch = batch
		rs := p.Execute(t.Context(), work("a", "1", "poison", "2"))
		if len(h.batches) != 1 || string(rs[0].Result) != "1" || !core.IsCode(rs[1].Err, core.CodePluginCrashed) || string(rs[2].Result) != "2" {
			t.Errorf("%s: %v batches, results %+v", name, h.batches, rs)
		}
	}
}

func TestLostLeasesEndABatchThatFailed(t *testing.T) {
	h := newFakeHost(echoed)
	p := startPlugins(t, PluginsConfig{Host: h}, "a")
	p.Execute(t.Context(), work("a", "warm"))
	ctx, cancel := context.WithCancel(t.Context())
	h.batch = func([][]byte) ([]core.CallResult, error) {
		cancel()
		return nil, errors.New("ended with its context")
	}
	calls := h.calls
	for _, r := range p.Execute(ctx, work("a", "1", "2")) {
		if !core.IsCode(r.Err, core.CodeCanceled) {
			t.Errorf("result %+v", r)
		}
	}
	if h.calls != calls {
		t.Error("items were called though their leases are lost")
	}
}

func TestReloadTakesTheManifestAnew(t *testing.T) {
	h := newFakeHost(echoed)
	version := "1"
	p := startPlugins(t, PluginsConfig{Host: h, Resolve: func(ref string) (core.Manifest, error) {
		if version == "broken" {
			return core.Manifest{}, core.Errorf("", core.CodeConfigInvalid, "x")
		}
		return core.Manifest{Name: "p", Version: "0.1.0", Digest: ref + version}, nil
	}}, "ref")
	version = "2"
	if err := p.Reload(t.Context(), "p"); err != nil || p.LoadedPlugins()[0].Digest != "ref2" {
		t.Errorf("%v, %+v", err, p.LoadedPlugins())
	}
	if err := p.Reload(t.Context(), "ref"); !core.IsCode(err, core.CodeNotFound) {
		t.Errorf("an unknown name: %v", err)
	}
	version = "broken"
	if err := p.Reload(t.Context(), "p"); !core.IsCode(err, core.CodeConfigInvalid) || p.LoadedPlugins()[0].Digest != "ref2" {
		t.Errorf("a broken manifest: %v", err)
	}
	p.cfg.Host = fixed{h}
	if err := p.Reload(t.Context(), "p"); !core.IsCode(err, core.CodeUnsupported) {
		t.Errorf("a host that cannot: %v", err)
	}
}

func TestRefreshExchangesWhatHasChanged(t *testing.T) {
	h := newFakeHost(echoed)
	digests := map[string]string{"a": "1", "b": "1", "c": "1"}
	p := startPlugins(t, PluginsConfig{Host: h, Resolve: func(ref string) (core.Manifest, error) {
		if digests[ref] == "broken" {
			return core.Manifest{}, core.Errorf("", core.CodeConfigInvalid, "a mistake")
		}
		return core.Manifest{Name: ref, Version: "0.1.0", Digest: digests[ref]}, nil
	}}, "a", "b", "c")
	if err := p.Refresh(t.Context()); err != nil || h.reloaded() != 0 {
		t.Errorf("nothing has changed: %v, %d reloads", err, h.reloaded())
	}
	digests["a"], digests["c"] = "broken", "2"
	err := p.Refresh(t.Context())
	if !core.IsCode(err, core.CodeConfigInvalid) || !strings.Contains(err.Error(), "plugin a") || h.reloaded() != 1 || p.LoadedPlugins()[2].Digest != "2" {
		t.Errorf("%v, %d reloads, %+v", err, h.reloaded(), p.LoadedPlugins())
	}
}
