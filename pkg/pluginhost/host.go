package pluginhost

import (
	"context"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/pyembed"
)

// Host runs plugins. It is safe for concurrent use.
type Host struct {
	cfg Config
	env hostEnv

	ctx      context.Context // ends loads when the host shuts down
	cancel   context.CancelFunc
	force    context.Context // ends the draining of old code when a shutdown's time is up
	forceNow context.CancelFunc

	// table is what calls look plugins up in; replaced as a whole, never changed.
	table atomic.Pointer[map[string]*plugin]

	mu      sync.Mutex         // guards what follows and writes of table; nothing blocks under it
	names   map[string]*plugin // every name taken; nil while its plugin loads
	order   []*plugin          // loaded plugins in order of loading
	closed  bool
	loading sync.WaitGroup // loads and reloads under way

	draining sync.WaitGroup // old generations that finish their calls
}

var (
	_ core.PluginHost = (*Host)(nil)
	_ core.Reloader   = (*Host)(nil)
)

// New makes a host, sweeps the run directories that dead workers have left behind
// and unpacks the Python SDK. The caller ends it with [Host.Shutdown].
func New(cfg Config) (*Host, error) {
	cfg = cfg.Defaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	for _, dir := range []*string{&cfg.DataDir, &cfg.RunDir} {
		abs, err := filepath.Abs(*dir)
		if err == nil {
			*dir, err = abs, privateDir(abs)
		}
		if err != nil {
			return nil, core.Wrap("pluginhost: open", core.CodeConfigInvalid, err)
		}
	}
	if err := sweep(cfg.RunDir); err != nil {
		return nil, core.Wrap("pluginhost: sweep", core.CodeUnavailable, err)
	}
	sdk, err := unpackSDK(cfg.DataDir)
	if err != nil {
		return nil, err
	}
	h := &Host{cfg: cfg, names: make(map[string]*plugin)}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.force, h.forceNow = context.WithCancel(context.Background())
	h.table.Store(&map[string]*plugin{})
	h.env = hostEnv{
		logger: cfg.Logger, dataDir: cfg.DataDir, runRoot: cfg.RunDir, sdkDir: sdk, launcher: cfg.Launcher,
		privateDirs: append([]string{cfg.DataDir}, cfg.PrivateDirs...), pythons: &pythons{}, libraries: &pyembed.Finder{},
		lookupEnv: cfg.LookupEnv,
	}
	return h, nil
}

// Load implements [core.PluginHost].
func (h *Host) Load(ctx context.Context, m core.Manifest) (core.PluginInfo, error) {
	op := "load plugin " + m.ID()
	if err := checkManifest(m); err != nil {
		return core.PluginInfo{}, core.WithOp(op, err)
	}
	if err := h.reserve(m.Name); err != nil {
		return core.PluginInfo{}, core.WithOp(op, err)
	}
	defer h.loading.Done()
	p := newPlugin(h, m.Name)
	ctx, stop := h.bound(ctx)
	defer stop()
	g, err := p.startGeneration(ctx, m, false)
	if err == nil {
		err = h.keepManifest(ctx, m)
		if err == nil {
			err = h.publish(p, g)
		}
		if err != nil {
			g.retire()
			g.stop(expired())
		}
	}
	if err != nil {
		h.release(m.Name)
		return core.PluginInfo{}, core.WithOp(op, err)
	}
	info := p.info()
	h.cfg.Events(core.PluginEvent{Topic: core.TopicPluginLoaded, Level: core.LevelInfo, Info: info, Attrs: loadedAttrs(info)})
	return info, nil
}

// reserve takes a name for a plugin that is about to load.
func (h *Host) reserve(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errShutDown()
	}
	if _, taken := h.names[name]; taken {
		return core.Errorf("", core.CodeAlreadyExists, "a plugin named %q is loaded already; unload it or give this one another name", name)
	}
	h.names[name] = nil
	h.loading.Add(1)
	return nil
}

func (h *Host) release(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.names, name)
}

// publish makes a started plugin visible to callers.
func (h *Host) publish(p *plugin, g *generation) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errShutDown()
	}
	p.cur.Store(g)
	h.names[p.name] = p
	h.order = append(h.order, p)
	table := maps.Clone(*h.table.Load())
	table[p.name] = p
	h.table.Store(&table)
	return nil
}

// withdraw takes a plugin out of callers' sight, keeping its name. It reports
// false when somebody else has done so.
func (h *Host) withdraw(p *plugin) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.Index(h.order, p)
	if i < 0 {
		return false
	}
	h.order = slices.Delete(h.order, i, i+1)
	table := maps.Clone(*h.table.Load())
	delete(table, p.name)
	h.table.Store(&table)
	return true
}

// bound joins ctx with the life of the host.
func (h *Host) bound(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(h.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

func errShutDown() error {
	return core.Errorf("", core.CodeClosed, "the plugin host is shut down")
}

// expired is a context that has ended: stop by force.
func expired() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func (h *Host) lookup(name string) (*plugin, error) {
	if p, ok := (*h.table.Load())[name]; ok {
		return p, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errShutDown()
	}
	return nil, core.Errorf("", core.CodeNotFound, "no plugin named %q is loaded", name)
}

// Plugins implements [core.PluginHost].
func (h *Host) Plugins() []core.PluginInfo {
	table := *h.table.Load()
	out := make([]core.PluginInfo, 0, len(table))
	for _, name := range slices.Sorted(maps.Keys(table)) {
		out = append(out, table[name].info())
	}
	return out
}

// Unload implements [core.PluginHost].
func (h *Host) Unload(ctx context.Context, name string) error {
	p, err := h.lookup(name)
	if err != nil {
		return core.WithOp("unload plugin "+name, err)
	}
	if !h.withdraw(p) {
		return core.WithOp("unload plugin "+name, core.Errorf("", core.CodeNotFound, "no plugin named %q is loaded", name))
	}
	err = p.close(ctx)
	h.release(name)
	return core.WithOp("unload plugin "+name, err)
}

// Shutdown implements [core.PluginHost]. A second call waits for nothing more.
func (h *Host) Shutdown(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.cancel()
	defer context.AfterFunc(ctx, h.forceNow)()
	h.loading.Wait()
	var errs []error
	for {
		h.mu.Lock()
		n := len(h.order)
		if n == 0 {
			h.mu.Unlock()
			break
		}
		p := h.order[n-1]
		h.mu.Unlock()
		if h.withdraw(p) {
			errs = append(errs, p.close(ctx))
			h.release(p.name)
		}
	}
	h.draining.Wait()
	return core.WithOp("shut down plugins", errors.Join(errs...))
}
