package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// onJob makes a command whose first argument is a job.
func onJob(t *tool, use, short string, check cobra.PositionalArgs, run func(ctx context.Context, conn *transport.AdminConn, id core.JobID, rest []string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: args(check),
		RunE: func(cmd *cobra.Command, a []string) error {
			id, err := jobID(a[0])
			if err != nil {
				return err
			}
			return t.jobs(cmd.Context(), func(ctx context.Context, conn *transport.AdminConn) error { return run(ctx, conn, id, a[1:]) })
		},
	}
}

func queueStatsCmd(t *tool) *cobra.Command {
	return onJob(t, "stats JOB", "Count the items of a job", cobra.ExactArgs(1), func(ctx context.Context, conn *transport.AdminConn, id core.JobID, _ []string) error {
		st, err := conn.JobQueue(ctx, id)
		if err != nil {
			return err
		}
		if t.json {
			return t.printJSON(map[string]any{"job_id": id, "ready": st.Ready, "delayed": st.Delayed, "leased": st.Leased, "dead": st.Dead, "oldest_ms": st.Oldest.Milliseconds()})
		}
		return table(t.stdout, [][]string{
			{"ready", fmt.Sprint(st.Ready)}, {"delayed", fmt.Sprint(st.Delayed)}, {"leased", fmt.Sprint(st.Leased)}, {"dead", fmt.Sprint(st.Dead)},
			{"oldest ready", round(st.Oldest).String()},
		})
	})
}

func queuePeekCmd(t *tool) *cobra.Command {
	var limit int
	c := onJob(t, "peek JOB", "Show the unfinished items of a job", cobra.ExactArgs(1), func(ctx context.Context, conn *transport.AdminConn, id core.JobID, _ []string) error {
		es, err := conn.PeekJob(ctx, id, 0, limit)
		if err != nil {
			return err
		}
		return t.printItems(es, "no item of the job is unfinished")
	})
	c.Flags().IntVar(&limit, "limit", 20, "show at most this many")
	return c
}

func queuePurgeCmd(t *tool) *cobra.Command {
	return onJob(t, "purge JOB", "Remove the unfinished items of a job, which ends it", cobra.ExactArgs(1), func(ctx context.Context, conn *transport.AdminConn, id core.JobID, _ []string) error {
		if err := conn.CancelJob(ctx, id, "its queue was purged by an operator"); err != nil {
			return err
		}
		return t.said(map[string]any{"purged": id}, "purged the queue of job %s", id)
	})
}

func deadListCmd(t *tool) *cobra.Command {
	var limit int
	c := onJob(t, "list JOB", "List the items that were given up", cobra.ExactArgs(1), func(ctx context.Context, conn *transport.AdminConn, id core.JobID, _ []string) error {
		es, err := conn.DeadItems(ctx, id, 0, limit)
		if err != nil {
			return err
		}
		return t.printItems(es, "no item of the job is dead")
	})
	c.Flags().IntVar(&limit, "limit", 100, "list at most this many")
	return c
}

func deadShowCmd(t *tool) *cobra.Command {
	return onJob(t, "show JOB ITEM", "Show one dead item with its history and input", cobra.ExactArgs(2), func(ctx context.Context, conn *transport.AdminConn, id core.JobID, rest []string) error {
		want, err := itemIDs(rest)
		if err != nil {
			return err
		}
		es, err := conn.DeadItems(ctx, id, want[0]-1, 1)
		if err != nil {
			return err
		}
		if len(es) == 0 || es[0].ID != want[0] {
			return core.Errorf("dead show", core.CodeNotFound, "item %d of job %s is not dead; `rollout dead list %s` shows those that are", want[0], id, id)
		}
		if t.json {
			return t.printJSON(itemView(es[0]))
		}
		rows := [][]string{
			{"item", fmt.Sprint(es[0].ID)}, {"id", es[0].IdempotencyKey}, {"attempts", fmt.Sprint(es[0].Attempts)}, {"losses", fmt.Sprint(es[0].Losses)},
		}
		for _, f := range es[0].History {
			rows = append(rows, []string{f.At.Local().Format(time.DateTime), f.Code.String() + ": " + f.Reason})
		}
		if err := table(t.stdout, rows); err != nil {
			return err
		}
		_, err = fmt.Fprintf(t.stdout, "%s\n", es[0].Payload)
		return err
	})
}

func deadRequeueCmd(t *tool) *cobra.Command {
	return onJob(t, "requeue JOB [ITEM...]", "Try dead items again, all without a number", cobra.MinimumNArgs(1), func(ctx context.Context, conn *transport.AdminConn, id core.JobID, rest []string) error {
		items, err := itemIDs(rest)
		if err != nil {
			return err
		}
		n, err := conn.RequeueDead(ctx, id, items...)
		if err != nil {
			return err
		}
		return t.said(map[string]any{"requeued": n}, "requeued %s", count(n, "item"))
	})
}

func deadDropCmd(t *tool) *cobra.Command {
	return onJob(t, "drop JOB [ITEM...]", "Remove dead items for good, all without a number; their results stay", cobra.MinimumNArgs(1), func(ctx context.Context, conn *transport.AdminConn, id core.JobID, rest []string) error {
		items, err := itemIDs(rest)
		if err != nil {
			return err
		}
		n, err := conn.DropDead(ctx, id, items...)
		if err != nil {
			return err
		}
		return t.said(map[string]any{"dropped": n}, "dropped %s", count(n, "item"))
	})
}

// printItems lists items of a queue.
func (t *tool) printItems(es []core.QueueEntry, none string) error {
	if t.json {
		views := make([]map[string]any, len(es))
		for i, e := range es {
			views[i] = itemView(e)
		}
		return t.printJSON(views)
	}
	if len(es) == 0 {
		_, err := fmt.Fprintln(t.stdout, none)
		return err
	}
	rows := [][]string{{"ITEM", "ID", "STATE", "ATTEMPTS", "LOSSES", "LAST REASON"}}
	for _, e := range es {
		reason := ""
		if n := len(e.History); n > 0 {
			reason = e.History[n-1].Code.String() + ": " + firstLine(e.History[n-1].Reason)
		}
		rows = append(rows, []string{fmt.Sprint(e.ID), e.IdempotencyKey, e.State, fmt.Sprint(e.Attempts), fmt.Sprint(e.Losses), reason})
	}
	return table(t.stdout, rows)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	if len(s) > 100 {
		s = s[:100] + "..."
	}
	return s
}

// itemView is an item for programs.
func itemView(e core.QueueEntry) map[string]any {
	v := map[string]any{
		"item": e.ID, "id": e.IdempotencyKey, "state": e.State, "attempts": e.Attempts, "losses": e.Losses,
		"enqueued_at": e.EnqueuedAt, "history": e.History,
	}
	if json.Valid(e.Payload) {
		v["input"] = json.RawMessage(e.Payload)
	}
	if !e.Owner.IsZero() {
		v["worker_id"], v["epoch"] = e.Owner, e.Epoch
	}
	return v
}
