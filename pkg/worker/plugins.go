package worker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// PluginsConfig says which plugins an executor runs, and on what host.
type PluginsConfig struct {
	// Host runs the plugins, required. The executor shuts it down.
	Host core.PluginHost
	// Refs are manifest paths or names, loaded in this order.
	Refs []string
	// Resolve reads the manifest of a reference, required.
	Resolve func(ref string) (core.Manifest, error)
	// Files names the files of a plugin that are worth a reload when they change;
	// nil: files are not watched.
	Files func(m core.Manifest) ([]string, error)
	// Events is where Host reports to, so that its events carry the worker's name;
	// nil: they do not.
	Events *PluginEvents
	// Logger takes what the executor has to say; nil: discarded.
	Logger *slog.Logger
}

// Plugins is the executor of a worker with plugins: it loads them at Init, gives
// every item to the plugin that it names, and unloads them at Shutdown. They stay
// loaded while the worker is fenced.
type Plugins struct {
	cfg PluginsConfig
	log *slog.Logger

	// loading serialises Init, Reload and Shutdown, which start and stop plugins.
	// It is held while plugins start; calls do not need it.
	loading sync.Mutex
	refs    map[string]string // plugin name -> reference; guarded by loading
	watch   *fileWatch        // guarded by loading; nil: nothing is watched

	mu    sync.Mutex // guards paces
	paces map[pace]time.Duration
}

// pace is what a mean time is kept for.
type pace struct{ plugin, method string }

var (
	_ core.Worker  = (*Plugins)(nil)
	_ Reloader     = (*Plugins)(nil)
	_ PluginLister = (*Plugins)(nil)
)

// NewPlugins returns an executor that has loaded nothing yet.
func NewPlugins(cfg PluginsConfig) (*Plugins, error) {
	if cfg.Host == nil || cfg.Resolve == nil {
		return nil, core.Errorf("worker: plugins", core.CodeInvalidArgument, "Host and Resolve are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Plugins{cfg: cfg, log: cfg.Logger, refs: map[string]string{}, paces: map[pace]time.Duration{}}, nil
}

// Init implements [core.Worker]: it loads every plugin that is not loaded yet, and
// fails with the first that does not start.
func (p *Plugins) Init(ctx context.Context, info core.WorkerInfo) error {
	p.loading.Lock()
	defer p.loading.Unlock()
	if p.cfg.Events != nil {
		p.cfg.Events.serve(info.Run, info.Ref.ID)
	}
	for _, ref := range p.cfg.Refs {
		if p.loaded(ref) {
			continue
		}
		m, err := p.cfg.Resolve(ref)
		if err != nil {
			return err
		}
		if _, err := p.cfg.Host.Load(ctx, m); err != nil {
			return core.WithOp("load plugin "+m.Name, err)
		}
		p.refs[m.Name] = ref
		p.watchFiles(m)
	}
	return nil
}

// loaded reports whether a reference has been loaded. loading is held.
func (p *Plugins) loaded(ref string) bool {
	for _, r := range p.refs {
		if r == ref {
			return true
		}
	}
	return false
}

// Ready implements [core.Worker].
func (p *Plugins) Ready(context.Context) error { return nil }

// Fence implements [core.Worker]. The contexts of running calls have ended already.
func (p *Plugins) Fence(string) {}

// Drain implements [core.Worker]. What runs has been waited for already.
func (p *Plugins) Drain(context.Context) error { return nil }

// Shutdown implements [core.Worker].
func (p *Plugins) Shutdown(ctx context.Context) error {
	p.loading.Lock()
	w := p.watch
	p.watch = nil
	p.loading.Unlock()
	if w != nil {
		w.stop() // a reload under way needs loading
	}
	p.loading.Lock()
	defer p.loading.Unlock()
	clear(p.refs)
	return p.cfg.Host.Shutdown(ctx)
}

// LoadedPlugins implements [PluginLister].
func (p *Plugins) LoadedPlugins() []core.LoadedPlugin {
	infos := p.cfg.Host.Plugins()
	out := make([]core.LoadedPlugin, len(infos))
	for i, in := range infos {
		out[i] = core.LoadedPlugin{Name: in.Name, Version: in.Version, Digest: in.Digest, Mode: in.Mode}
	}
	return out
}

// Reload implements [Reloader].
func (p *Plugins) Reload(ctx context.Context, plugin string) error {
	p.loading.Lock()
	defer p.loading.Unlock()
	ref, ok := p.refs[plugin]
	if !ok {
		return core.Errorf("worker: reload", core.CodeNotFound, "the worker has no plugin %q", plugin)
	}
	r, ok := p.cfg.Host.(core.Reloader)
	if !ok {
		return core.Errorf("worker: reload", core.CodeUnsupported, "the plugin host cannot exchange plugins")
	}
	m, err := p.cfg.Resolve(ref)
	if err != nil {
		return err
	}
	if _, err = r.Reload(ctx, m); err != nil {
		return err
	}
	p.watchFiles(m)
	return nil
}

// Refresh exchanges every plugin whose manifest or files have changed since it was
// loaded, and leaves the others alone. What cannot be exchanged stays as it is; the
// error tells of all of them.
func (p *Plugins) Refresh(ctx context.Context) error {
	var errs []error
	for _, in := range p.cfg.Host.Plugins() {
		p.loading.Lock()
		ref, ok := p.refs[in.Name]
		p.loading.Unlock()
		if !ok {
			continue // it is being unloaded
		}
		m, err := p.cfg.Resolve(ref)
		if err == nil && m.Digest != in.Digest {
			err = p.Reload(ctx, in.Name)
		}
		if err != nil {
			errs = append(errs, core.WithOp("plugin "+in.Name, err))
		}
	}
	return errors.Join(errs...)
}

// Execute implements [core.Worker]. Items of one plugin and method go to it as one
// batch while they are quick; an item that has failed or was lost before runs alone,
// so that what it does costs no other.
func (p *Plugins) Execute(ctx context.Context, items []core.WorkItem) []core.WorkResult {
	out := make([]core.WorkResult, len(items))
	infos := map[string]core.PluginInfo{}
	for _, in := range p.cfg.Host.Plugins() {
		infos[in.Name] = in
	}
	for start := 0; start < len(items); {
		in, known := infos[items[start].Plugin]
		n := 1
		if known {
			n = p.batch(items[start:], in)
		}
		part, res := items[start:start+n], out[start:start+n]
		start += n
		switch {
		case !known:
			res[0].Err = core.Errorf("worker: execute", core.CodePreempted, "this worker has no plugin %q any more", part[0].Plugin)
		case part[0].Digest != "" && part[0].Digest != in.Digest:
			for i := range part {
				res[i].Err = core.Errorf("worker: execute", core.CodePreempted, "the plugin %q has been exchanged, the item is for another version of it", part[i].Plugin)
			}
		case n == 1:
			res[0] = p.one(ctx, part[0], in)
		default:
			p.many(ctx, part, in, res)
		}
	}
	for i := range out {
		out[i].Lease = items[i].Lease
	}
	return out
}

// batchShare is the part of a call's deadline that a batch may take by experience.
const batchShare = 8

// batch returns how many items from the front go to the plugin in one call.
func (p *Plugins) batch(items []core.WorkItem, in core.PluginInfo) int {
	first := items[0]
	p.mu.Lock()
	each, known := p.paces[pace{first.Plugin, first.Method}]
	p.mu.Unlock()
	limit := 1
	if known {
		limit = int(timeout(first, in) / batchShare / max(each, time.Microsecond))
	}
	limit = min(limit, core.MaxBatchLen)
	n, bytes := 0, 0
	for _, it := range items {
		same := it.Plugin == first.Plugin && it.Method == first.Method && it.Digest == first.Digest && it.Timeout == first.Timeout && it.Deadline.Equal(first.Deadline)
		if bytes += len(it.Payload); n > 0 && (!same || n >= limit || it.Attempt > 1 || first.Attempt > 1 || bytes > core.MaxCallPayload/4) {
			break
		}
		n++
	}
	return n
}

// timeout is the deadline of one call for an item.
func timeout(it core.WorkItem, in core.PluginInfo) time.Duration {
	t := in.CallTimeout
	if it.Timeout > 0 {
		t = it.Timeout
	}
	if t <= 0 {
		t = 30 * time.Second
	}
	return t
}

// bounded returns the context of one call.
func bounded(ctx context.Context, it core.WorkItem, in core.PluginInfo) (context.Context, context.CancelFunc) {
	end := time.Now().Add(timeout(it, in))
	if !it.Deadline.IsZero() && it.Deadline.Before(end) {
		end = it.Deadline
	}
	return context.WithDeadline(ctx, end)
}

// one calls the plugin for one item.
func (p *Plugins) one(ctx context.Context, it core.WorkItem, in core.PluginInfo) core.WorkResult {
	ctx, cancel := bounded(ctx, it, in)
	defer cancel()
	start := time.Now()
	res, err := p.cfg.Host.Call(ctx, it.Plugin, it.Method, it.Payload)
	took := time.Since(start)
	if err == nil {
		p.learn(it, took, 1)
	}
	return core.WorkResult{Result: res, Err: err, Elapsed: took}
}

// many calls the plugin for a batch. When the batch fails as a whole, because the
// plugin died or hung over one of its items, the items are tried one by one, so that
// only the one that did it is charged with it.
func (p *Plugins) many(ctx context.Context, items []core.WorkItem, in core.PluginInfo, out []core.WorkResult) {
	payloads := make([][]byte, len(items))
	for i, it := range items {
		payloads[i] = it.Payload
	}
	call, cancel := bounded(ctx, items[0], in)
	start := time.Now()
	answers, err := p.cfg.Host.CallBatch(call, items[0].Plugin, items[0].Method, payloads)
	took := time.Since(start)
	cancel()
	if err == nil && len(answers) == len(items) {
		p.learn(items[0], took, len(items))
		for i, a := range answers {
			out[i] = core.WorkResult{Result: a.Result, Err: a.Err, Elapsed: took / time.Duration(len(items))}
			if core.IsCode(a.Err, core.CodePluginCrashed) || core.IsCode(a.Err, core.CodeDeadlineExceeded) {
				out[i] = p.one(ctx, items[i], in)
			}
		}
		return
	}
	p.forget(items[0])
	p.log.Debug("a batch failed as a whole, its items are tried one by one", "plugin", items[0].Plugin, "items", len(items), "err", err)
	for i, it := range items {
		if ctx.Err() != nil {
			out[i] = core.WorkResult{Err: core.Wrap("worker: execute", core.CodeCanceled, ctx.Err())}
			continue
		}
		out[i] = p.one(ctx, it, in)
	}
}

// learn moves the mean time of an item by a quarter of what was seen now.
func (p *Plugins) learn(it core.WorkItem, took time.Duration, n int) {
	each := took / time.Duration(n)
	p.mu.Lock()
	defer p.mu.Unlock()
	k := pace{it.Plugin, it.Method}
	if old, ok := p.paces[k]; ok {
		each = (3*old + each) / 4
	}
	p.paces[k] = each
}

// forget makes the next items run alone until a time is known again.
func (p *Plugins) forget(it core.WorkItem) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.paces, pace{it.Plugin, it.Method})
}
