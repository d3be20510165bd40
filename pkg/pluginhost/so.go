package pluginhost

import (
	"context"
	"encoding/json"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/cabi"
)

// startSO opens a shared library in this process.
func startSO(ctx context.Context, m core.Manifest, env hostEnv) (instance, error) {
	held, err := inProcessContainment(m)
	if err != nil {
		return nil, err
	}
	dir, err := newRunDir(env.runRoot)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err := dir.remove(); err != nil {
			env.logger.Warn("private copy of a library stays behind", "plugin_id", m.ID(), "err", err)
		}
	}()
	plugin, err := openSO(ctx, soSource{
		options:     cabi.Options{Path: m.SO.Path, Symbol: m.SO.Symbol, SHA256: m.SO.SHA256, CopyDir: dir.path},
		concurrency: m.Runtime.Concurrency,
		config:      m.Config,
	})
	if err != nil {
		return nil, err
	}
	if m.SO.SHA256 != "" {
		held.Enforced = append(held.Enforced, "sha256")
	}
	return &soInstance{plugin: plugin, held: held, gone: make(chan struct{})}, nil
}

// soSource is a library and what it is started with.
type soSource struct {
	options     cabi.Options
	concurrency int
	config      map[string]any
}

// openSO opens, initialises and preflights a library.
func openSO(ctx context.Context, s soSource) (*cabi.Plugin, error) {
	config, err := configJSON(s.config)
	if err != nil {
		return nil, err
	}
	lib, err := cabi.Open(s.options)
	if err != nil {
		return nil, err
	}
	parallel := 1
	if lib.ThreadSafe() {
		parallel = s.concurrency
	}
	return cabi.Start(ctx, lib, config, parallel)
}

// configJSON is a manifest's [config] as in-process plugins get it: always an object.
func configJSON(config map[string]any) ([]byte, error) {
	if config == nil {
		return []byte("{}"), nil
	}
	b, err := json.Marshal(config)
	if err != nil {
		return nil, core.Errorf("config", core.CodeConfigInvalid, "config cannot be written as JSON: %w", err)
	}
	return b, nil
}

// inProcessContainment is what holds for code that shares the worker's memory:
// nothing. A manifest that requires containment is refused.
func inProcessContainment(m core.Manifest) (core.Containment, error) {
	const why = "the plugin runs inside the worker's process"
	if m.Sandbox.Require {
		return core.Containment{}, core.Errorf("sandbox", core.CodeUnsupported,
			"sandbox.require cannot be met: %s; use mode sidecar, or isolation = \"process\" for a so", why)
	}
	return core.Containment{Missing: []string{
		"process: " + why,
		"landlock: " + why,
		"network: " + why,
		"memory: " + why,
	}}, nil
}

// soInstance is a library in this process. It cannot die by itself: what kills it
// kills the worker.
type soInstance struct {
	plugin *cabi.Plugin
	held   core.Containment
	gone   chan struct{} // closed by stop
	stops  stopOnce
}

var _ instance = (*soInstance)(nil)

func (i *soInstance) call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	return i.plugin.Call(ctx, method, payload)
}

func (i *soInstance) callBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	return i.plugin.CallBatch(ctx, method, payloads)
}

func (i *soInstance) containment() core.Containment { return i.held }

func (i *soInstance) pid() int { return 0 }

func (i *soInstance) done() <-chan struct{} { return i.gone }

// exit has nothing to tell: only stop closes done.
func (i *soInstance) exit() error { return nil }

func (i *soInstance) stop(ctx context.Context) error {
	return i.stops.do(func() error {
		defer close(i.gone)
		return i.plugin.Stop(ctx)
	})
}
