package pluginhost

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// plugin is one name in the host's table.
type plugin struct {
	host *Host
	name string
	cur  atomic.Pointer[generation] // nil once the plugin is unloaded
	num  atomic.Int64               // starts so far, which is the generation's number

	// turn is taken by reload and close, one at a time.
	turn chan struct{}

	mu      sync.Mutex  // guards crashes
	crashes []time.Time // deaths within the window, oldest first
}

func newPlugin(h *Host, name string) *plugin {
	p := &plugin{host: h, name: name, turn: make(chan struct{}, 1)}
	p.num.Store(1)
	return p
}

// forget takes new code for innocent of the old one's crashes.
func (p *plugin) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.crashes = nil
}

// info describes the plugin as it is now.
func (p *plugin) info() core.PluginInfo {
	g := p.cur.Load()
	if g == nil {
		return core.PluginInfo{Name: p.name}
	}
	info := core.PluginInfo{
		Name: p.name, ID: g.m.ID(), Version: g.m.Version, Kind: g.m.Kind, TraitID: g.m.TraitID, Mode: g.m.Mode,
		Digest: g.m.Digest, Generation: int(p.num.Load()), Start: g.start,
		CallTimeout: g.m.Runtime.CallTimeout, Concurrency: max(g.m.Runtime.Concurrency, 1),
	}
	for _, s := range g.seats {
		if st := s.state.Load(); st.inst != nil {
			info.PID = st.inst.pid()
			info.Containment = st.inst.containment()
			break
		}
	}
	return info
}

// crashed counts a death and returns how long to wait before the next start, and
// whether the plugin counts as looping.
func (p *plugin) crashed() (wait time.Duration, looping bool) {
	policy := p.host.cfg.Restart
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.crashes) > 0 && now.Sub(p.crashes[0]) > policy.Window {
		p.crashes = p.crashes[1:]
	}
	p.crashes = append(p.crashes, now)
	n := len(p.crashes)
	switch {
	case n >= policy.Crashes:
		return policy.Pause, true
	case n == 1:
		return 0, false
	}
	return min(policy.Base<<min(n-2, 20), policy.Pause), false
}

// close ends the plugin: calls in flight finish until ctx ends.
func (p *plugin) close(ctx context.Context) error {
	p.turn <- struct{}{} // a reload under way ends first; the host has cancelled it or it is bounded by start_timeout
	defer func() { <-p.turn }()
	info := p.info()
	g := p.cur.Swap(nil)
	if g == nil {
		return nil
	}
	g.retire()
	err := g.stop(ctx)
	ev := core.PluginEvent{Topic: core.TopicPluginUnloaded, Level: core.LevelInfo, Info: info, Attrs: infoAttrs(info)}
	if err != nil {
		ev.Level, ev.Line = core.LevelWarn, err.Error()
	}
	p.host.cfg.Events(ev)
	return err
}

func (p *plugin) emitCrash(cause error, wait time.Duration, looping bool) {
	info := p.info()
	attrs := infoAttrs(info)
	attrs["exit"], attrs["restart_in_ms"], attrs["looping"] = cause.Error(), wait.Milliseconds(), looping
	p.host.cfg.Events(core.PluginEvent{Topic: core.TopicPluginCrashed, Level: core.LevelWarn, Info: info, Line: cause.Error(), Attrs: attrs})
}

func (p *plugin) emitRestart(took time.Duration) {
	p.num.Add(1)
	info := p.info()
	info.Start = took
	p.host.cfg.Events(core.PluginEvent{Topic: core.TopicPluginRestarted, Level: core.LevelInfo, Info: info, Attrs: infoAttrs(info)})
}

func infoAttrs(info core.PluginInfo) core.Attrs {
	return core.Attrs{
		"mode": string(info.Mode), "version": info.Version, "generation": info.Generation,
		"start_ms": info.Start.Milliseconds(),
	}
}

func loadedAttrs(info core.PluginInfo) core.Attrs {
	a := infoAttrs(info)
	a["digest"] = info.Digest
	a["containment"] = map[string]any{"enforced": anySlice(info.Containment.Enforced), "missing": anySlice(info.Containment.Missing)}
	if info.PID != 0 {
		a["pid"] = info.PID
	}
	return a
}

func anySlice(ss []string) []any {
	out := make([]any, len(ss))
	for i, s := range ss {
		out[i] = s
	}
	return out
}
