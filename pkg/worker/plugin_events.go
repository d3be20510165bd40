package worker

import (
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// PluginEvents turns what a plugin host reports into events of the stream. A line
// that a plugin wrote becomes an event of kind log.
type PluginEvents struct {
	em core.EventEmitter

	mu     sync.Mutex // guards what the events carry
	run    string
	worker string
}

// NewPluginEvents returns a sink for a host's Events. Until an executor serves them,
// its events carry no worker.
func NewPluginEvents(em core.EventEmitter) *PluginEvents { return &PluginEvents{em: em} }

// serve tells who the worker is.
func (p *PluginEvents) serve(run core.RunID, worker core.WorkerID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.run, p.worker = run.String(), worker.String()
}

// Emit takes one report. It does not block.
func (p *PluginEvents) Emit(pe core.PluginEvent) {
	ev := core.Event{
		Time: time.Now(), Level: pe.Level, Kind: core.EventDomain, Topic: pe.Topic, PluginID: pe.Info.ID,
		Message: pe.Line, Attrs: core.Attrs{},
	}
	p.mu.Lock()
	ev.RunID, ev.WorkerID = p.run, p.worker
	p.mu.Unlock()
	for k, v := range pe.Attrs {
		ev.Attrs[k] = v
	}
	if pe.Topic == "" {
		ev.Kind = core.EventLog
	} else {
		ev.Attrs["plugin"], ev.Attrs["mode"], ev.Attrs["version"] = pe.Info.Name, string(pe.Info.Mode), pe.Info.Version
	}
	switch pe.Topic {
	case core.TopicPluginLoaded, core.TopicPluginReloaded, core.TopicPluginRestarted:
		ev.Attrs["start_ms"], ev.Attrs["digest"], ev.Attrs["generation"] = pe.Info.Start.Milliseconds(), pe.Info.Digest, pe.Info.Generation
		held := pe.Info.Containment
		ev.Attrs["containment"] = map[string]any{"enforced": append([]string{}, held.Enforced...), "missing": append([]string{}, held.Missing...)}
	}
	if ev.Level == "" {
		ev.Level = core.LevelInfo
	}
	p.em.Emit(ev)
}
