package cli

import (
	"log/slog"
	"os"
	"path/filepath"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost"
	"github.com/rollout-substrate/rollout/pkg/worker"
)

// launchVerb is the argument with which a program becomes the launcher of sidecars.
const launchVerb = "launch"

// launcher returns the command that starts this program as a launcher.
func launcher() ([]string, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, core.Wrap("find this program", core.CodeInternal, err)
	}
	return []string{self, launchVerb}, nil
}

// newPlugins makes what runs inside the worker, the plugins that are asked for; nil
// where none is.
func newPlugins(cfg config.Config, store core.Storage, em core.EventEmitter, log *slog.Logger, hotReload bool) (*worker.Plugins, error) {
	if len(cfg.Plugins) == 0 {
		return nil, nil
	}
	if err := checkPlugins(cfg.Plugins); err != nil {
		return nil, err // a wrong manifest is told at once, not after a coordinator has been waited for
	}
	launch, err := launcher()
	if err != nil {
		return nil, err
	}
	sink := worker.NewPluginEvents(em)
	host, err := pluginhost.New(pluginhost.Config{
		DataDir: cfg.DataDir, RunDir: cfg.SidecarDir(), PrivateDirs: []string{cfg.TLSDir, cfg.IdentityDir(), filepath.Dir(cfg.StoragePath)},
		Launcher: launch, Storage: store, Events: sink.Emit, Logger: log,
	})
	if err != nil {
		return nil, err
	}
	pc := worker.PluginsConfig{Host: host, Refs: cfg.Plugins, Resolve: resolvePlugin(log), Events: sink, Logger: log}
	if hotReload {
		pc.Files = func(m core.Manifest) ([]string, error) { return pluginhost.Files(m, os.LookupEnv) }
	}
	return worker.NewPlugins(pc)
}

// checkPlugins reads the manifests of all references, whose names must differ.
func checkPlugins(refs []string) error {
	named := map[string]string{}
	for _, ref := range refs {
		m, err := readPlugin(ref)
		switch other := named[m.Name]; {
		case core.IsCode(err, core.CodeNotFound):
			return usagef("%w", err)
		case err != nil:
			return err
		case other != "":
			return usagef("the plugins %s and %s are both named %q, and a worker has a name once", other, m.Path, m.Name)
		}
		named[m.Name] = m.Path
	}
	return nil
}

// resolvePlugin returns what reads the manifest of a path or a name.
func resolvePlugin(log *slog.Logger) func(ref string) (core.Manifest, error) {
	return func(ref string) (core.Manifest, error) {
		dir, err := os.Getwd()
		if err != nil {
			return core.Manifest{}, core.Wrap("find plugin", core.CodeInternal, err)
		}
		found, err := pluginhost.Find(ref, dir, os.LookupEnv)
		if err != nil {
			return core.Manifest{}, err
		}
		if len(found.Shadowed) > 0 {
			log.Warn("further manifests carry the plugin's name and are not used", "plugin", ref, "used", found.Path, "shadowed", found.Shadowed)
		}
		return pluginhost.ReadManifest(found.Path, os.LookupEnv)
	}
}
