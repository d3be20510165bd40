package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost"
)

// newPluginCommand makes the noun plugin.
func newPluginCommand(t *tool) *cobra.Command {
	return group(cobra.Command{Use: "plugin", Short: "Make, try and exchange plugins"},
		pluginNewCmd(t), pluginCheckCmd(t), pluginCallCmd(t), pluginReloadCmd(t))
}

// readPlugin reads the manifest that a reference on the command line means.
func readPlugin(ref string) (core.Manifest, error) {
	return resolvePlugin(slog.New(slog.DiscardHandler))(ref)
}

// withPluginHost runs f with a host of its own that leaves nothing behind. What
// plugins write goes to stderr.
func (t *tool) withPluginHost(ctx context.Context, f func(h *pluginhost.Host) error) (err error) {
	if t.stdout, err = ownStdout(t.stdout); err != nil {
		return err
	}
	launch, err := launcher()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "rollout-plugin-")
	if err != nil {
		return core.Wrap("make a directory for the plugin", core.CodeUnavailable, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var mu sync.Mutex // one line at a time
	h, err := pluginhost.New(pluginhost.Config{
		DataDir: dir, Launcher: launch,
		Events: func(ev core.PluginEvent) {
			if ev.Topic == "" {
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintf(t.stderr, "%s: %s\n", ev.Info.Name, ev.Line)
			}
		},
	})
	if err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		err = errors.Join(err, h.Shutdown(end))
	}()
	return f(h)
}

// pluginFailure keeps a plugin's failure from looking like an absent coordinator,
// which has an exit status of its own.
func pluginFailure(err error) error {
	switch core.CodeOf(err) {
	case core.CodeUnavailable, core.CodeDeadlineExceeded:
		return core.Errorf("", core.CodePluginError, "%w", err)
	}
	return err
}

// pluginReport is the outcome of a check.
type pluginReport struct {
	Plugin      string           `json:"plugin"`
	Manifest    string           `json:"manifest"`
	Mode        core.PluginMode  `json:"mode"`
	Protocol    string           `json:"protocol,omitempty"`
	Digest      string           `json:"digest"`
	Files       []string         `json:"files"`
	StartMS     float64          `json:"start_ms"`
	StopMS      float64          `json:"stop_ms"`
	Containment core.Containment `json:"containment"`
}

func pluginCheckCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "check MANIFEST|NAME", Short: "Check a manifest, load its plugin and run its preflight",
		Long: "check reads the manifest, validates [config] against the plugin's schema, loads the\n" +
			"plugin, runs init and preflight, shuts it down, and says how long that took and which\n" +
			"limits hold on this machine.",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			m, err := readPlugin(a[0])
			if err != nil {
				return err
			}
			r := pluginReport{Plugin: m.ID(), Manifest: m.Path, Mode: m.Mode, Protocol: string(m.Sidecar.Protocol), Digest: m.Digest}
			if r.Files, err = pluginhost.Files(m, os.LookupEnv); err != nil {
				return err
			}
			err = t.withPluginHost(cmd.Context(), func(h *pluginhost.Host) error {
				info, err := h.Load(cmd.Context(), m)
				if err != nil {
					return err
				}
				r.StartMS, r.Containment = msOf(info.Start), info.Containment
				began := time.Now()
				err = h.Unload(cmd.Context(), m.Name)
				r.StopMS = msOf(time.Since(began))
				return err
			})
			if err != nil {
				return pluginFailure(err)
			}
			return t.printReport(r)
		},
	}
}

func msOf(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

func (t *tool) printReport(r pluginReport) error {
	if t.json {
		return t.printJSON(r)
	}
	mode := string(r.Mode)
	if r.Protocol != "" {
		mode += " over " + r.Protocol
	}
	rows := [][]string{
		{"plugin", r.Plugin}, {"manifest", r.Manifest}, {"mode", mode}, {"digest", r.Digest}, {"files", strings.Join(r.Files, " ")},
		{"ready", fmt.Sprintf("after %.1f ms (load, init, preflight)", r.StartMS)}, {"stopped", fmt.Sprintf("after %.1f ms", r.StopMS)},
		{"enforced", strings.Join(r.Containment.Enforced, ", ")},
	}
	for _, m := range r.Containment.Missing {
		rows = append(rows, []string{"not enforced", m})
	}
	return table(t.stdout, rows)
}

func pluginReloadCmd(t *tool) *cobra.Command {
	var worker string
	c := &cobra.Command{
		Use: "reload PLUGIN", Short: "Have workers exchange a plugin's code while calls go on",
		Long: "reload tells every live worker that has loaded the plugin, or one worker, to start the\n" +
			"plugin's files as they are now, and waits for their answers. Workers without\n" +
			"--hot-reload refuse.",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			return t.admin(cmd.Context(), func(ctx context.Context, admin core.Admin) error {
				ids, err := reloadTargets(ctx, admin, a[0], worker)
				if err != nil {
					return err
				}
				return t.reload(ctx, admin, a[0], ids)
			})
		},
	}
	c.Flags().StringVar(&worker, "worker", "", "only this `worker`")
	return c
}

// reloadTargets returns the workers to tell.
func reloadTargets(ctx context.Context, admin core.Admin, plugin, worker string) ([]core.WorkerID, error) {
	if worker != "" {
		id, err := workerID(worker)
		return []core.WorkerID{id}, err
	}
	rows, err := admin.Workers(ctx)
	if err != nil {
		return nil, err
	}
	var ids []core.WorkerID
	for _, w := range rows {
		if w.Liveness != core.LivenessAlive && w.Liveness != core.LivenessSuspect {
			continue
		}
		for _, p := range w.Plugins {
			if p.Name == plugin {
				ids = append(ids, w.ID)
				break
			}
		}
	}
	if len(ids) == 0 {
		return nil, core.Errorf("reload", core.CodeNotFound, "no live worker has loaded a plugin named %q", plugin)
	}
	return ids, nil
}

// reload sends the command to all and waits for all; every refusal is reported.
func (t *tool) reload(ctx context.Context, admin core.Admin, plugin string, ids []core.WorkerID) error {
	seqs := make([]uint64, len(ids))
	for i, id := range ids {
		seq, err := admin.SendCommand(ctx, id, core.Command{Kind: core.CommandReload, Plugin: plugin})
		if err != nil {
			return suggest(err, "rollout workers lists those that are known")
		}
		seqs[i] = seq
	}
	var errs []error
	reloaded := make([]string, 0, len(ids))
	for i, id := range ids {
		res, err := admin.AwaitCommand(ctx, id, seqs[i])
		switch {
		case err != nil:
			errs = append(errs, core.Errorf("", core.CodePreempted, "worker %s: %w", id, err))
		case res.Code != core.CodeUnknown:
			errs = append(errs, core.Errorf("", res.Code, "worker %s refused: %s", id, res.Detail))
		default:
			reloaded = append(reloaded, id.String())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return core.Errorf("reload "+plugin, core.CodePluginContract, "%w", err)
	}
	return t.said(map[string]any{"plugin": plugin, "reloaded": reloaded}, "%s reloaded %s", count(len(reloaded), "worker"), plugin)
}
