package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// sample is the directory, in the source tree, of one reward function written as a
// plugin of each mode.
const sample = "examples/gsm8k-reward"

// plugin is one plugin that every worker of the run loads.
type plugin struct {
	name     string
	mode     core.PluginMode
	manifest string // in the run's own directory
}

// plugins lists one of each mode, in the order in which they are loaded.
func (s *stage) plugins() []plugin {
	return []plugin{
		{"gsm8k-reward-c", core.ModeSO, s.path("plugins", "c.toml")},
		{"gsm8k-reward-python", core.ModePython, s.path("plugins", "embedded.toml")},
		{"gsm8k-reward", core.ModeSidecar, s.path("plugins", "rollout-plugin.toml")},
	}
}

// buildPlugins copies the sample into the run's directory and compiles its C.
func (s *stage) buildPlugins(ctx context.Context) error {
	from := filepath.Join(s.source, sample)
	if err := os.CopyFS(s.path("plugins"), visible{os.DirFS(from)}); err != nil {
		return fmt.Errorf("the sample plugins are not in %s, run this from the root of the source tree: %w", from, err)
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	cmd := exec.CommandContext(ctx, cc, "-shared", "-fPIC", "-O2", "-I", filepath.Join(s.source, "include"),
		"-o", s.path("plugins", "libgsm8k_reward.so"), s.path("plugins", "gsm8k_reward.c"))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

// visible hides what other programs leave in a source tree, such as bytecode.
type visible struct{ fs.FS }

func (v visible) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(v.FS, name)
	var out []fs.DirEntry
	for _, e := range entries {
		if e.Type().IsRegular() && !strings.HasSuffix(e.Name(), ".so") {
			out = append(out, e)
		}
	}
	return out, err
}

// pluginsLoaded waits until a worker has loaded every plugin, which follows a call
// through it, and checks what it says of each.
func (s *stage) pluginsLoaded(ctx context.Context, w *process, from int) (figure string, err error) {
	for _, p := range s.plugins() {
		ev, err := w.await(ctx, from, patience, "plugin_loaded of "+p.name, func(ev core.Event) bool {
			return ev.Topic == core.TopicPluginLoaded && ev.Attrs["plugin"] == p.name
		})
		if err != nil {
			return "", err
		}
		took, err := checkLoaded(ev, p)
		if err != nil {
			return "", fmt.Errorf("plugin_loaded of %s: %w in %v", p.name, err, ev.Attrs)
		}
		figure += fmt.Sprintf("%s %v ms, ", p.mode, took)
	}
	return strings.TrimSuffix(figure, ", "), nil
}

// checkLoaded returns how many milliseconds the start took.
func checkLoaded(ev core.Event, p plugin) (took any, err error) {
	held, ok := ev.Attrs["containment"].(map[string]any)
	took, timed := ev.Attrs["start_ms"].(float64)
	switch {
	case ev.Attrs["mode"] != string(p.mode):
		return nil, fmt.Errorf("the mode is not %s", p.mode)
	case ev.Attrs["version"] != "0.1.0":
		return nil, fmt.Errorf("the version is not 0.1.0")
	case ev.PluginID != p.name+"-0.1.0":
		return nil, fmt.Errorf("the plugin_id is %q", ev.PluginID)
	case ev.WorkerID == "":
		return nil, fmt.Errorf("there is no worker_id")
	case !timed:
		return nil, fmt.Errorf("there is no start_ms")
	case !ok:
		return nil, fmt.Errorf("nothing tells what contains it")
	}
	enforced, _ := held["enforced"].([]any)
	missing, _ := held["missing"].([]any)
	if p.mode == core.ModeSidecar && len(enforced)+len(missing) == 0 {
		return nil, fmt.Errorf("neither what is enforced nor what is not is told")
	}
	return took, nil
}

// socketsGone checks that no worker has left anything where its sidecars ran.
func (s *stage) socketsGone() error {
	for _, name := range []string{"w1", "w2"} {
		dir := s.path(name, "sidecars")
		entries, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		for _, e := range entries {
			return fmt.Errorf("%s is left in %s", e.Name(), dir)
		}
	}
	return nil
}
