package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// jobs calls f with the coordinator's book of jobs.
func (t *tool) jobs(ctx context.Context, f func(ctx context.Context, conn *transport.AdminConn) error) error {
	return t.admin(ctx, func(ctx context.Context, a core.Admin) error {
		conn, ok := a.(*transport.AdminConn)
		if !ok {
			return core.Errorf("jobs", core.CodeUnsupported, "the connection carries no jobs")
		}
		return f(ctx, conn)
	})
}

func jobID(s string) (core.JobID, error) {
	id, err := core.ParseJobID(s)
	if err != nil {
		return id, usagef("%w; `rollout jobs` lists the ids", err)
	}
	return id, nil
}

func jobsCmd(t *tool) *cobra.Command {
	var limit int
	c := &cobra.Command{
		Use: "jobs", Short: "List jobs, newest first", Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.jobs(cmd.Context(), func(ctx context.Context, conn *transport.AdminConn) error {
				jobs, err := conn.Jobs(ctx, limit)
				if err != nil {
					return err
				}
				if t.json {
					return t.printJSON(jobs)
				}
				if len(jobs) == 0 {
					_, err := fmt.Fprintln(t.stdout, "no job has been submitted yet")
					return err
				}
				return table(t.stdout, jobRows(jobs, time.Now()))
			})
		},
	}
	c.Flags().IntVar(&limit, "limit", 50, "list at most this many; 0: all")
	return c
}

func jobRows(jobs []core.Job, now time.Time) [][]string {
	out := [][]string{{"JOB", "STATE", "DONE", "ITEMS", "OK", "ERROR", "DEAD", "PLUGIN", "METHOD", "SUBMITTED"}}
	for _, j := range jobs {
		c := j.Counts
		out = append(out, []string{
			j.ID.String(), string(j.State), fmt.Sprint(c.Done()), fmt.Sprint(c.Items), fmt.Sprint(c.OK), fmt.Sprint(c.Error), fmt.Sprint(c.Dead),
			j.Spec.Plugin, j.Spec.Method, ago(now, j.CreatedAt),
		})
	}
	return out
}

func jobShowCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one job", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			id, err := jobID(a[0])
			if err != nil {
				return err
			}
			return t.jobs(cmd.Context(), func(ctx context.Context, conn *transport.AdminConn) error {
				j, err := conn.Job(ctx, id)
				if err != nil {
					return suggest(err, "rollout jobs lists those that are known")
				}
				if t.json {
					return t.printJSON(j)
				}
				return table(t.stdout, jobDetails(j, time.Now()))
			})
		},
	}
}

func jobDetails(j core.Job, now time.Time) [][]string {
	c := j.Counts
	rows := [][]string{
		{"job", j.ID.String()},
		{"state", string(j.State)},
		{"plugin", j.Spec.Plugin + ", method " + j.Spec.Method},
		{"digest", j.Spec.Digest},
		{"input", j.Spec.Source},
		{"submitted", ago(now, j.CreatedAt)},
		{"items", fmt.Sprintf("%d: %d ok, %d error, %d dead, %d left", c.Items, c.OK, c.Error, c.Dead, c.Items-c.Done())},
		{"in work", fmt.Sprintf("%d on %s", c.Leased, count(j.Workers, "worker"))},
		{"losses", fmt.Sprintf("%d items were requeued because their worker died", c.Losses)},
		{"resumed", fmt.Sprintf("%d taken from earlier jobs", c.Resumed)},
	}
	if j.Reason != "" {
		rows = append(rows, []string{"reason", j.Reason})
	}
	if !j.FinishedAt.IsZero() {
		rows = append(rows, []string{"took", round(j.FinishedAt.Sub(j.CreatedAt)).String()})
	}
	return rows
}

func jobCancelCmd(t *tool) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "cancel ID", Short: "Stop a job; finished results stay", Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			id, err := jobID(a[0])
			if err != nil {
				return err
			}
			return t.jobs(cmd.Context(), func(ctx context.Context, conn *transport.AdminConn) error {
				if err := conn.CancelJob(ctx, id, reason); err != nil {
					return suggest(err, "rollout jobs lists those that are known")
				}
				return t.said(map[string]any{"cancelled": id}, "cancelled job %s", id)
			})
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for whoever looks later")
	return c
}

func jobResultsCmd(t *tool) *cobra.Command {
	var (
		path string
		wait bool
	)
	c := &cobra.Command{
		Use: "results ID", Short: "Write a job's result lines in input order", Args: args(cobra.ExactArgs(1)),
		Long: "results writes the result lines that are there. With --wait it goes on until the job is\n" +
			"over, and its exit status says whether every item is ok. FILE is FILE.partial until every\n" +
			"result of a job that is over is in it; of a job that goes on FILE.partial stays, status 1.",
		RunE: func(cmd *cobra.Command, a []string) error {
			id, err := jobID(a[0])
			if err != nil {
				return err
			}
			return t.jobs(cmd.Context(), func(ctx context.Context, conn *transport.AdminConn) error {
				if wait {
					if _, err := conn.Job(ctx, id); err != nil {
						return suggest(err, "rollout jobs lists those that are known")
					}
					out, err := t.openOutput(path)
					if err != nil {
						return err
					}
					return t.waitForResults(ctx, conn, id, out)
				}
				return t.sendAll(ctx, conn, id, path)
			})
		},
	}
	c.Flags().StringVarP(&path, "output", "o", "", "write to this `file` instead of standard output")
	c.Flags().BoolVar(&wait, "wait", false, "wait until the job is over")
	return c
}

// itemIDs reads item numbers from the command line.
func itemIDs(args []string) ([]core.ItemID, error) {
	out := make([]core.ItemID, len(args))
	for i, a := range args {
		n, err := strconv.ParseUint(a, 10, 64)
		if err != nil || n == 0 {
			return nil, usagef("%q is not an item's number; `rollout dead list JOB` shows them", a)
		}
		out[i] = core.ItemID(n)
	}
	return out, nil
}
