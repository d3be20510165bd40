package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func workersCmd(t *tool) *cobra.Command {
	c := &cobra.Command{
		Use: "workers", Short: "List every worker in the book", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.admin(cmd.Context(), func(ctx context.Context, a core.Admin) error {
				rows, err := a.Workers(ctx)
				if err != nil {
					return err
				}
				if t.json {
					return t.printJSON(append([]core.WorkerRow{}, rows...))
				}
				if len(rows) == 0 {
					_, err := fmt.Fprintln(t.stdout, "no worker has registered yet")
					return err
				}
				return table(t.stdout, workerRows(rows, time.Now()))
			})
		},
	}
	c.AddCommand(forgetCmd(t))
	return c
}

func workerRows(rows []core.WorkerRow, now time.Time) [][]string {
	out := [][]string{{"WORKER", "STATE", "LIVENESS", "LAST BEAT", "EPOCH", "ADDRESS", "VERSION", "SLOTS"}}
	for _, w := range rows {
		out = append(out, []string{
			w.ID.String(), string(w.State), string(w.Liveness), ago(now, w.LastSeenAt), fmt.Sprint(w.Epoch),
			w.Addr, w.Version, fmt.Sprintf("%d/%d", w.SlotsBusy, w.Slots),
		})
	}
	return out
}

func forgetCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "forget ID", Short: "Remove a worker that is gone, so that its id may enrol with another key",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			id, err := workerID(a[0])
			if err != nil {
				return err
			}
			return t.admin(cmd.Context(), func(ctx context.Context, a core.Admin) error {
				if err := a.ForgetWorker(ctx, id); err != nil {
					return suggest(err, "rollout workers lists those that are known")
				}
				return t.said(map[string]any{"forgotten": id}, "forgot worker %s", id)
			})
		},
	}
}

// workerID reads a worker's name from the command line.
func workerID(s string) (core.WorkerID, error) {
	id, err := core.ParseWorkerID(s)
	if err != nil {
		return id, usageError{err: err}
	}
	return id, nil
}

// said reports what was done, to programs or to people.
func (t *tool) said(v any, format string, args ...any) error {
	if t.json {
		return t.printJSON(v)
	}
	_, err := fmt.Fprintf(t.stdout, format+"\n", args...)
	return err
}

// suggest adds what to do to an error about something that is not there.
func suggest(err error, what string) error {
	if core.IsCode(err, core.CodeNotFound) {
		return core.Errorf("", core.CodeNotFound, "%w; %s", err, what)
	}
	return err
}
