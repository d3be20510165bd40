package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func statusCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the coordinator in one look", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.admin(cmd.Context(), func(ctx context.Context, a core.Admin) error {
				st, err := a.Status(ctx)
				if err != nil {
					return err
				}
				if t.json {
					return t.printJSON(st)
				}
				return table(t.stdout, statusRows(st, time.Now()))
			})
		},
	}
}

func statusRows(st core.Status, now time.Time) [][]string {
	requeue := "at once"
	if st.MassFailure {
		requeue = "held back: too many workers failed at once"
	}
	store := "in memory"
	if st.StoreBytes > 0 {
		store = size(st.StoreBytes)
	}
	return [][]string{
		{"run", st.Run.String()},
		{"coordinator", st.Addr + " (" + st.Protocol + "), version " + st.Version},
		{"epoch", fmt.Sprint(st.Epoch)},
		{"started", ago(now, st.StartedAt)},
		{"workers", fmt.Sprintf("%d alive, %d suspect, %d failed, %d deregistered",
			st.Workers[core.LivenessAlive], st.Workers[core.LivenessSuspect], st.Workers[core.LivenessFailed], st.Workers[core.LivenessDeregistered])},
		{"heartbeat", fmt.Sprintf("every %v, fenced after %v, failed after %v", st.Timing.HeartbeatInterval, st.Timing.SelfFence, st.Timing.Failure)},
		{"requeue", requeue},
		{"store", fmt.Sprintf("%s, revision %d", store, st.Revision)},
	}
}
