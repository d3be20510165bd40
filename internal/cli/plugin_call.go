package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost"
)

func pluginCallCmd(t *tool) *cobra.Command {
	var config, file string
	c := &cobra.Command{
		Use: "call MANIFEST|NAME METHOD", Short: "Call a plugin once, without a coordinator",
		Long: "call loads the plugin, calls one method with the payload from stdin or a file, writes the\n" +
			"result to stdout as it is, and shuts the plugin down. The call has the manifest's\n" +
			"call_timeout.",
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			m, err := readPlugin(a[0])
			if err == nil && config != "" {
				err = setConfig(&m, config)
			}
			if err != nil {
				return err
			}
			payload, err := t.readPayload(file)
			if err != nil {
				return err
			}
			return pluginFailure(t.callPlugin(cmd.Context(), m, a[1], payload))
		},
	}
	c.Flags().StringVar(&config, "config", "", "a JSON `object` instead of the manifest's [config]")
	c.Flags().StringVar(&file, "payload", "", "read the payload from a `file` instead of stdin")
	return c
}

// setConfig replaces a manifest's configuration.
func setConfig(m *core.Manifest, text string) error {
	var c map[string]any
	if err := json.Unmarshal([]byte(text), &c); err != nil || c == nil {
		return usagef("--config: %q is not a JSON object", text)
	}
	m.Config = c
	return nil
}

// readPayload reads at most what a call may carry, and one byte more to tell.
func (t *tool) readPayload(file string) ([]byte, error) {
	in := t.stdin
	if file != "" {
		f, err := os.Open(file)
		if err != nil {
			return nil, usagef("--payload: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, core.MaxCallPayload+1))
	return b, core.Wrap("read payload", core.CodeUnavailable, err)
}

func (t *tool) callPlugin(ctx context.Context, m core.Manifest, method string, payload []byte) error {
	return t.withPluginHost(ctx, func(h *pluginhost.Host) error {
		if _, err := h.Load(ctx, m); err != nil {
			return err
		}
		if m.Runtime.CallTimeout > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, m.Runtime.CallTimeout)
			defer cancel()
		}
		out, err := h.Call(ctx, m.Name, method, payload)
		if err != nil {
			return err
		}
		if t.json {
			return t.printResult(out)
		}
		_, err = t.stdout.Write(out)
		return err
	})
}

// printResult prints a result as result lines have it: JSON as it is, anything
// else as {"base64"}.
func (t *tool) printResult(out []byte) error {
	if json.Valid(out) {
		_, err := fmt.Fprintf(t.stdout, "%s\n", out)
		return err
	}
	return t.printJSON(map[string][]byte{"base64": out})
}
