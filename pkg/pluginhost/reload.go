package pluginhost

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Reload implements [core.Reloader].
func (h *Host) Reload(ctx context.Context, m core.Manifest) (core.PluginInfo, error) {
	op := "reload plugin " + m.ID()
	if err := checkManifest(m); err != nil {
		return core.PluginInfo{}, core.WithOp(op, err)
	}
	p, err := h.lookup(m.Name)
	if err != nil {
		return core.PluginInfo{}, core.WithOp(op, err)
	}
	if err := h.beginReload(); err != nil {
		return core.PluginInfo{}, core.WithOp(op, err)
	}
	defer h.loading.Done()
	ctx, stop := h.bound(ctx)
	defer stop()
	info, err := p.reload(ctx, m)
	return info, core.WithOp(op, err)
}

func (h *Host) beginReload() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return errShutDown()
	}
	h.loading.Add(1)
	return nil
}

func (p *plugin) reload(ctx context.Context, m core.Manifest) (core.PluginInfo, error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return core.PluginInfo{}, core.Errorf("", core.CodeOf(ctx.Err()), "another reload is under way: %w", ctx.Err())
	}
	defer func() { <-p.turn }()
	old := p.cur.Load()
	if old == nil {
		return core.PluginInfo{}, core.Errorf("", core.CodeNotFound, "the plugin is being unloaded")
	}
	if m.Mode == core.ModeSO || old.m.Mode == core.ModeSO {
		return core.PluginInfo{}, core.Errorf("", core.CodePluginContract, "mode so cannot be reloaded, since a library stays in its process; restart the worker")
	}
	if m.Mode != old.m.Mode {
		return core.PluginInfo{}, core.Errorf("", core.CodePluginContract, "the mode changed from %s to %s; unload the plugin and load it again", old.m.Mode, m.Mode)
	}
	g, err := p.startGeneration(ctx, m, true)
	if err != nil {
		return core.PluginInfo{}, core.Errorf("", core.CodeOf(err), "the old code stays: %w", err).WithRetry(core.RetryOf(err))
	}
	if err := p.host.keepManifest(ctx, m); err != nil {
		g.retire()
		return core.PluginInfo{}, errors.Join(err, g.stop(expired()))
	}
	p.num.Add(1)
	p.cur.Store(g)
	old.retire()
	p.forget()
	info := p.info()
	p.host.cfg.Events(core.PluginEvent{Topic: core.TopicPluginReloaded, Level: core.LevelInfo, Info: info, Attrs: loadedAttrs(info)})
	p.host.draining.Go(func() {
		if err := old.stop(p.host.force); err != nil {
			p.host.cfg.Logger.Warn("stop of old code failed", "plugin_id", old.m.ID(), "err", err)
		}
	})
	return info, nil
}

// keepManifest stores what is loaded under which name.
func (h *Host) keepManifest(ctx context.Context, m core.Manifest) error {
	if h.cfg.Storage == nil {
		return nil
	}
	row, err := json.Marshal(map[string]any{
		"name": m.Name, "version": m.Version, "kind": m.Kind, "trait_id": m.TraitID, "mode": m.Mode,
		"digest": m.Digest, "path": m.Path, "manifest": m,
	})
	if err != nil {
		return core.Wrap("keep manifest", core.CodeConfigInvalid, err)
	}
	_, err = core.PutBytes(ctx, h.cfg.Storage, core.NewKey(core.NamespacePlugins, m.Name), row)
	return core.WithOp("keep manifest", err)
}
