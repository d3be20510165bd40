package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func drainCmd(t *tool) *cobra.Command {
	var (
		reason string
		detach bool
	)
	c := &cobra.Command{
		Use: "drain WORKER", Short: "Let a worker finish its work and leave",
		Long: "drain tells a worker to take no more work, finish what it has, and leave. It waits\n" +
			"until the worker has done so; ending the command does not take the order back.",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			id, err := workerID(a[0])
			if err != nil {
				return err
			}
			return t.admin(cmd.Context(), func(ctx context.Context, a core.Admin) error {
				return t.drain(ctx, a, id, reason, detach)
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the log")
	c.Flags().BoolVar(&detach, "detach", false, "do not wait until the worker has left")
	return c
}

func (t *tool) drain(ctx context.Context, a core.Admin, id core.WorkerID, reason string, detach bool) error {
	seq, err := a.SendCommand(ctx, id, core.Command{Kind: core.CommandDrain, Reason: reason})
	if err != nil {
		return suggest(err, "rollout workers lists those that are known")
	}
	if detach {
		return t.said(map[string]any{"worker_id": id, "command": seq}, "worker %s was told to drain", id)
	}
	if !t.json {
		fmt.Fprintf(t.stderr, "worker %s was told to drain, waiting until it has\n", id)
	}
	res, err := a.AwaitCommand(ctx, id, seq)
	switch {
	case core.IsCode(err, core.CodeUnavailable):
		// A coordinator or worker that went away is no refusal of this command.
		return core.Errorf("drain", core.CodePreempted, "the worker did not finish draining: %w", err)
	case err != nil:
		return err
	case res.Code != core.CodeUnknown:
		return core.Errorf("drain", res.Code, "the worker refused: %s", res.Detail)
	}
	return t.said(map[string]any{"worker_id": id, "command": seq, "drained": true}, "worker %s has drained", id)
}
