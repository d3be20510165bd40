package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Function is one method of a plugin that is Go code of this program. It may be called
// by as many goroutines at once as the worker has slots. It returns when ctx ends, which
// is at the item's deadline or when the worker loses its lease. An error that is no
// [core.Error] is final and becomes [core.CodePluginError]; give it a code and a retry
// hint to have the item tried again. It keeps no reference to payload.
type Function func(ctx context.Context, payload []byte) ([]byte, error)

// GoPlugin is a plugin that is Go code of this program.
type GoPlugin struct {
	Name    string // unique in the worker
	Version string // another one for other results: jobs are pinned to name and version
	Methods map[string]Function
}

// info is what the worker says of the plugin. Its digest stands for its code, which is
// as good as the version that its author gives it.
func (p GoPlugin) info() core.LoadedPlugin {
	digest := core.SumContent([]byte(strings.Join([]string{string(core.ModeGo), p.Name, p.Version}, "\x00")))
	return core.LoadedPlugin{Name: p.Name, Version: p.Version, Digest: digest.String(), Mode: core.ModeGo}
}

// Functions is the executor of a worker whose plugins are Go functions of the program
// that it runs in: no manifest, no other process, no containment. A panic of one is
// [core.CodePluginCrashed] for its item and ends nothing.
type Functions struct {
	idle
	plugins map[string]GoPlugin
	infos   map[string]core.LoadedPlugin
}

var (
	_ core.Worker  = (*Functions)(nil)
	_ PluginLister = (*Functions)(nil)
)

// NewFunctions returns an executor of these plugins.
func NewFunctions(plugins ...GoPlugin) (*Functions, error) {
	const op = "worker: functions"
	f := &Functions{plugins: map[string]GoPlugin{}, infos: map[string]core.LoadedPlugin{}}
	for _, p := range plugins {
		switch _, twice := f.plugins[p.Name]; {
		case p.Name == "" || p.Version == "":
			return nil, core.Errorf(op, core.CodeInvalidArgument, "a plugin needs a name and a version, this one has %q and %q", p.Name, p.Version)
		case twice:
			return nil, core.Errorf(op, core.CodeInvalidArgument, "two plugins are named %q", p.Name)
		case len(p.Methods) == 0:
			return nil, core.Errorf(op, core.CodeInvalidArgument, "the plugin %q has no methods", p.Name)
		}
		for name, method := range p.Methods {
			if method == nil || name == "" || len(name) > core.MaxMethodLen {
				return nil, core.Errorf(op, core.CodeInvalidArgument, "the method %.64q of %q is no function with a name of 1 to %d bytes", name, p.Name, core.MaxMethodLen)
			}
		}
		p.Methods = maps.Clone(p.Methods)
		f.plugins[p.Name], f.infos[p.Name] = p, p.info()
	}
	return f, nil
}

// LoadedPlugins implements [PluginLister].
func (f *Functions) LoadedPlugins() []core.LoadedPlugin {
	out := make([]core.LoadedPlugin, 0, len(f.infos))
	for _, name := range slices.Sorted(maps.Keys(f.infos)) {
		out = append(out, f.infos[name])
	}
	return out
}

// Execute implements [core.Worker]: one item after the other.
func (f *Functions) Execute(ctx context.Context, items []core.WorkItem) []core.WorkResult {
	out := make([]core.WorkResult, len(items))
	for i, it := range items {
		start := time.Now()
		out[i].Result, out[i].Err = f.call(ctx, it)
		out[i].Lease, out[i].Elapsed = it.Lease, time.Since(start)
	}
	return out
}

// call calls the method that an item names.
func (f *Functions) call(ctx context.Context, it core.WorkItem) (result []byte, err error) {
	const op = "worker: execute"
	switch info, ok := f.infos[it.Plugin]; {
	case !ok:
		return nil, core.Errorf(op, core.CodeNotFound, "this worker has no plugin %q", it.Plugin)
	case it.Digest != "" && it.Digest != info.Digest:
		return nil, core.Errorf(op, core.CodePreempted, "the item is for another version of the plugin %q", it.Plugin)
	}
	method := f.plugins[it.Plugin].Methods[it.Method]
	if method == nil {
		return nil, core.Errorf(op, core.CodeNotFound, "the plugin %q has no method %q", it.Plugin, it.Method)
	}
	ctx, cancel := bounded(ctx, it, core.PluginInfo{})
	defer cancel()
	defer func() {
		if p := recover(); p != nil {
			result, err = nil, core.Errorf(op, core.CodePluginCrashed, "%s of %s panicked: %v\n%s", it.Method, it.Plugin, p, debug.Stack())
		}
	}()
	result, err = method(ctx, it.Payload)
	return checked(ctx, op, it, result, err)
}

// checked gives every error a code.
func checked(ctx context.Context, op string, it core.WorkItem, result []byte, err error) ([]byte, error) {
	var coded *core.Error
	switch {
	case err == nil && len(result) > core.MaxCallPayload:
		return nil, core.Errorf(op, core.CodeTooLarge, "the result of %s has %d bytes, at most %d are taken", it.Plugin, len(result), core.MaxCallPayload)
	case err == nil:
		return result, nil
	case errors.As(err, &coded):
		return nil, core.WithOp(op, err)
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		return nil, core.Wrap(op, core.CodeCanceled, fmt.Errorf("%s of %s: %w", it.Method, it.Plugin, err))
	}
	return nil, core.Wrap(op, core.CodePluginError, err)
}
