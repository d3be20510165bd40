package pluginhost

import (
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Config is what a [Host] is made with.
type Config struct {
	// DataDir is where the host keeps what it unpacks. Default "data". It counts
	// as private: no sidecar should be able to read it.
	DataDir string

	// RunDir is below which each sidecar has a directory of its own while it
	// lives. Default DataDir/sidecars.
	RunDir string

	// PrivateDirs are further directories with keys, such as the TLS directory.
	// A sidecar that can read one is reported in its containment.
	PrivateDirs []string

	// Launcher is the argument list, absolute program first, that runs
	// [LaunchMain]. Empty: sidecars run uncontained, which is reported, and
	// isolated shared libraries are refused.
	Launcher []string

	// Storage keeps the manifests of loaded plugins; nil keeps none.
	Storage core.Storage

	// Events receives what happens to plugins and what they write. It is called
	// from many goroutines and must not block. nil discards.
	Events func(core.PluginEvent)

	// Logger is for the host's own remarks. nil discards.
	Logger *slog.Logger

	// LookupEnv reads the worker's environment. Default [os.LookupEnv].
	LookupEnv func(name string) (string, bool)

	// Restart says how dead instances are replaced.
	Restart RestartPolicy
}

// RestartPolicy says how the instances of a plugin that dies are replaced. The
// first death within the window is answered at once, each further one after a
// wait that doubles from Base. After Crashes deaths within the window the plugin
// counts as looping: its calls fail at once and a new instance is tried after
// Pause.
type RestartPolicy struct {
	Crashes int           // default 5
	Window  time.Duration // default 10 s
	Base    time.Duration // default 50 ms
	Pause   time.Duration // default 10 s
}

// Defaults returns c with every empty field set to its default.
func (c Config) Defaults() Config {
	if c.DataDir == "" {
		c.DataDir = "data"
	}
	if c.RunDir == "" {
		c.RunDir = filepath.Join(c.DataDir, "sidecars")
	}
	if c.Events == nil {
		c.Events = func(core.PluginEvent) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.LookupEnv == nil {
		c.LookupEnv = os.LookupEnv
	}
	if c.Restart.Crashes == 0 {
		c.Restart.Crashes = 5
	}
	if c.Restart.Window == 0 {
		c.Restart.Window = 10 * time.Second
	}
	if c.Restart.Base == 0 {
		c.Restart.Base = 50 * time.Millisecond
	}
	if c.Restart.Pause == 0 {
		c.Restart.Pause = 10 * time.Second
	}
	return c
}

// Validate returns every rule that c breaks.
func (c Config) Validate() error {
	var vs core.Violations
	add := func(key, msg string) { vs = append(vs, core.Violation{Key: key, Msg: msg}) }
	if len(c.Launcher) > 0 && !filepath.IsAbs(c.Launcher[0]) {
		add("Launcher", "the program must be an absolute path, so that a sidecar's directory cannot change which one runs")
	}
	if c.Restart.Crashes < 1 {
		add("Restart.Crashes", "must be at least 1")
	}
	for key, d := range map[string]time.Duration{"Window": c.Restart.Window, "Base": c.Restart.Base, "Pause": c.Restart.Pause} {
		if d < 0 {
			add("Restart."+key, "must not be negative")
		}
	}
	return vs.Err("pluginhost: config")
}
