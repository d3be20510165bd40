package worker

import (
	"context"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Reloader is an executor that can exchange a plugin while it runs.
type Reloader interface {
	// Reload exchanges the named plugin. Repeating it is no error.
	Reload(ctx context.Context, plugin string) error
}

// Canceler is an executor that can stop the items of one job.
type Canceler interface {
	// Cancel stops what runs for the job. A job that it does not know is no error.
	Cancel(ctx context.Context, job core.JobID) error
}

// PluginLister is an executor that knows its plugins.
type PluginLister interface {
	// LoadedPlugins returns every plugin that can be called now, sorted by name.
	LoadedPlugins() []core.LoadedPlugin
}

// idle is the executor of a worker without plugins.
type idle struct{}

var _ core.Worker = idle{}

func (idle) Init(context.Context, core.WorkerInfo) error { return nil }
func (idle) Ready(context.Context) error                 { return nil }
func (idle) Fence(string)                                {}
func (idle) Drain(context.Context) error                 { return nil }
func (idle) Shutdown(context.Context) error              { return nil }

func (idle) Execute(_ context.Context, items []core.WorkItem) []core.WorkResult {
	out := make([]core.WorkResult, len(items))
	for i, it := range items {
		out[i] = core.WorkResult{Lease: it.Lease, Err: core.Errorf("worker: execute", core.CodeNotFound, "this worker has no plugin %q", it.Plugin)}
	}
	return out
}

// noEvents discards events.
type noEvents struct{}

func (noEvents) Emit(core.Event)             {}
func (noEvents) Close(context.Context) error { return nil }

// hookGrace is how long a hook may outstay the end of its context before it is
// abandoned.
const hookGrace = time.Second

// hook runs one hook of the executor with a bound on its time. A hook that outstays
// it is left behind in its goroutine: only what it returns later is lost.
func hook(ctx context.Context, name string, limit time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	select {
	case err := <-done:
		return core.WithOp("worker: "+name, err)
	case <-ctx.Done():
	}
	grace := time.NewTimer(hookGrace)
	defer grace.Stop()
	select {
	case err := <-done:
		return core.WithOp("worker: "+name, err)
	case <-grace.C:
		return core.Errorf("worker: "+name, core.CodeDeadlineExceeded, "the hook did not return %v after its context ended and is abandoned", hookGrace)
	}
}
