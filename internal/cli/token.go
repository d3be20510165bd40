package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func tokenNewCmd(t *tool) *cobra.Command {
	var spec core.TokenSpec
	c := &cobra.Command{
		Use: "new", Short: "Make a join token and print it",
		Long: "new prints a token that a worker presents to enrol: put it into the file join.token of\n" +
			"the worker's TLS directory, beside ca.pem. Only its hash is kept, so it cannot be\n" +
			"shown again.",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if spec.TTL < 0 || spec.Uses < 0 {
				return usagef("--ttl and --uses must not be negative")
			}
			return t.admin(cmd.Context(), func(ctx context.Context, a core.Admin) error {
				token, err := a.NewToken(ctx, spec)
				if err != nil {
					return err
				}
				text := string(token.Reveal())
				out := map[string]any{"token": text, "uses": spec.Uses}
				if spec.TTL > 0 {
					out["not_after"] = time.Now().Add(spec.TTL).UTC()
				}
				return t.said(out, "%s", text)
			})
		},
	}
	c.Flags().DurationVar(&spec.TTL, "ttl", 0, "how long it can be used (default: for ever)")
	c.Flags().IntVar(&spec.Uses, "uses", 0, "how many workers may enrol with it (default: any number)")
	return c
}
