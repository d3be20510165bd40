package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/internal/config"
)

func configCheckCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "check FILE...", Short: "Check configuration files without starting anything",
		Args: args(cobra.MinimumNArgs(1)),
		RunE: func(_ *cobra.Command, files []string) error {
			l, err := config.Load(config.Options{Program: config.Coordinator, Files: files, DataDir: t.dataDir})
			if err != nil {
				return err
			}
			for _, w := range l.Warnings {
				fmt.Fprintf(t.stderr, "warning: %s\n", w)
			}
			return t.said(map[string]any{"ok": true, "warnings": len(l.Warnings)}, "ok")
		},
	}
}

func configPrintCmd(t *tool) *cobra.Command {
	var program string
	c := &cobra.Command{
		Use: "print", Short: "Print every key with its value and where that comes from",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			who, ok := map[string]config.Program{"coordinator": config.Coordinator, "worker": config.Worker}[program]
			if !ok {
				return usagef("--for %q is no program, use coordinator or worker", program)
			}
			l, err := t.load(who)
			if err != nil {
				return err
			}
			for _, w := range l.Warnings {
				fmt.Fprintf(t.stderr, "warning: %s\n", w)
			}
			if t.json {
				return t.printJSON(l.List())
			}
			return l.WriteTOML(t.stdout)
		},
	}
	c.Flags().StringVar(&program, "for", "coordinator", "whose defaults: coordinator or worker")
	return c
}

// fileExists reports whether something has that name, whatever it is.
func fileExists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
