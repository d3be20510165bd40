package worker

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// watched is a plugin whose one file is watched.
func watched(t *testing.T, h *fakeHost) (p *Plugins, file string, write func(text string)) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "plugin.py")
	written := time.Now()
	write = func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		// The file system's clock may be coarser than two writes.
		written = written.Add(time.Second)
		if err := os.Chtimes(file, written, written); err != nil {
			t.Fatal(err)
		}
	}
	write("1")
	p = startPlugins(t, PluginsConfig{Host: h, Files: func(core.Manifest) ([]string, error) { return []string{file}, nil }}, "a")
	return p, file, write
}

// looks lets the watch look n times. It ends at the moment of a look.
func looks(n int) {
	time.Sleep(time.Duration(n) * watchPause) // synctest
	synctest.Wait()
}

func TestAChangedFileReloadsItsPluginOnceItIsWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(echoed)
		p, _, write := watched(t, h)
		looks(5)
		if n := h.reloaded(); n != 0 {
			t.Fatalf("%d reloads of a plugin that nobody changed", n)
		}
		for range 5 { // it is still being written
			write("2")
			looks(1)
		}
		if n := h.reloaded(); n != 0 {
			t.Fatalf("%d reloads while the file is being written", n)
		}
		looks(2)
		if n := h.reloaded(); n != 1 {
			t.Fatalf("%d reloads", n)
		}
		write("3")
		looks(3)
		if n := h.reloaded(); n != 2 {
			t.Fatalf("%d reloads after a second change", n)
		}
		if err := p.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		write("4")
		looks(4)
		if n := h.reloaded(); n != 2 {
			t.Fatalf("%d reloads, one after the end", n)
		}
	})
}

func TestAFileThatIsAwayForAWhileIsWatchedOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newFakeHost(echoed)
		_, file, write := watched(t, h)
		if err := os.Remove(file); err != nil { // as editors do to replace a file
			t.Fatal(err)
		}
		looks(1)
		write("2")
		looks(3)
		if n := h.reloaded(); n != 1 {
			t.Errorf("%d reloads", n)
		}
	})
}

func TestFilesAreNotWatchedUnasked(t *testing.T) {
	p := startPlugins(t, PluginsConfig{Host: newFakeHost(echoed)}, "a")
	if p.watch != nil {
		t.Error("files are watched")
	}
	p = startPlugins(t, PluginsConfig{Host: newFakeHost(echoed), Files: func(core.Manifest) ([]string, error) {
		return nil, core.Errorf("", core.CodeUnavailable, "cannot be listed")
	}}, "a")
	if p.watch != nil || len(p.LoadedPlugins()) != 1 {
		t.Error("a plugin whose files cannot be listed is to be loaded, and not watched")
	}
}

// printedEvents collects events.
type printedEvents struct {
	noEvents
	mu  sync.Mutex // guards evs
	evs []core.Event
}

func (p *printedEvents) Emit(ev core.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.evs = append(p.evs, ev)
}

func TestPluginEventsCarryWhoAndWhat(t *testing.T) {
	var out printedEvents
	sink := NewPluginEvents(&out)
	info := core.PluginInfo{
		Name: "a", ID: "a-0.1.0", Version: "0.1.0", Mode: core.ModeSidecar, Digest: "d", Generation: 2, Start: 1500 * time.Millisecond,
		Containment: core.Containment{Enforced: []string{"landlock"}},
	}
	sink.Emit(core.PluginEvent{Topic: core.TopicPluginLoaded, Info: info})
	id := core.NewWorkerID()
	p := startPlugins(t, PluginsConfig{Host: newFakeHost(echoed), Events: sink})
	run := core.NewRunID()
	if err := p.Init(t.Context(), core.WorkerInfo{Run: run, Ref: core.WorkerRef{ID: id}}); err != nil {
		t.Fatal(err)
	}
	sink.Emit(core.PluginEvent{Topic: core.TopicPluginCrashed, Level: core.LevelWarn, Info: info, Attrs: core.Attrs{"exit": "exit status 3"}})
	sink.Emit(core.PluginEvent{Info: info, Level: core.LevelError, Line: "a line"})

	loaded, crashed, line := out.evs[0], out.evs[1], out.evs[2]
	held, _ := loaded.Attrs["containment"].(map[string]any)
	if loaded.Topic != core.TopicPluginLoaded || loaded.Kind != core.EventDomain || loaded.Level != core.LevelInfo || loaded.PluginID != "a-0.1.0" ||
		loaded.Attrs["plugin"] != "a" || loaded.Attrs["mode"] != "sidecar" || loaded.Attrs["version"] != "0.1.0" || loaded.Attrs["digest"] != "d" ||
		loaded.Attrs["generation"] != 2 || loaded.Attrs["start_ms"] != int64(1500) {
		t.Errorf("loaded: %+v", loaded)
	}
	if enforced, _ := held["enforced"].([]string); len(enforced) != 1 || held["missing"] == nil {
		t.Errorf("containment: %+v", held)
	}
	if crashed.WorkerID != id.String() || crashed.RunID != run.String() || crashed.Attrs["exit"] != "exit status 3" || crashed.Level != core.LevelWarn {
		t.Errorf("crashed: %+v", crashed)
	}
	if line.Kind != core.EventLog || line.Topic != "" || line.Message != "a line" || line.Level != core.LevelError || line.PluginID != "a-0.1.0" {
		t.Errorf("line: %+v", line)
	}
}
