package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

const submitHelp = `submit gives the lines of a JSONL file to a plugin, one call for each line, on every
worker that has the plugin loaded.

A line is a JSON object and is handed to the plugin as it stands. Its id is the field
custom_id or id, or made from its content. Each line yields one result line, in input
order:

  {"id":"...","index":0,"status":"ok","result":...,"attempts":1,"worker_id":"..."}

Without --wait submit prints the job's id and returns once every line is durable. With
--wait it shows progress on a terminal and writes the results to --output, or to
standard output. The output is FILE.partial until it is complete. Ctrl-C leaves the
job running and says how to come back.

exit status: 0 every item is ok, 1 some are not, or interrupted, 2 wrong usage`

// submitOptions are the flags of submit.
type submitOptions struct {
	plugin, method, input string
	onBadLine             string
	deadline              time.Duration
	spec                  core.JobSpec
	wait                  bool
	output                string
}

func submitCmd(t *tool) *cobra.Command {
	var o submitOptions
	c := &cobra.Command{
		Use: "submit --plugin NAME --method METHOD --input FILE", Short: "Score a JSONL file with a plugin",
		Long: submitHelp, Args: args(cobra.NoArgs),
		Example: "  rollout submit --plugin gsm8k-reward --method score --input rollouts.jsonl --wait --output scores.jsonl",
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.submit(cmd.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.plugin, "plugin", "", "`name` of the plugin")
	f.StringVar(&o.method, "method", "", "the plugin's `method`")
	f.StringVar(&o.input, "input", "", "JSONL `file`, or - for standard input")
	f.StringVarP(&o.output, "output", "o", "", "write the results to this `file`, or - for standard output; needs --wait")
	f.BoolVar(&o.wait, "wait", false, "wait for the results")
	f.BoolVar(&o.spec.Resume, "resume", false, "take finished results of the same line, plugin and method from earlier jobs")
	f.StringVar(&o.onBadLine, "on-bad-line", "stop", "what a bad line does: `stop` the submit, or become an error line (error)")
	f.Int32Var(&o.spec.Priority, "priority", 0, "higher is served first")
	f.IntVar(&o.spec.MaxAttempts, "max-attempts", 0, "failures after which a line is dead (default: the coordinator's work.max_attempts)")
	f.IntVar(&o.spec.MaxLosses, "max-losses", 0, "lost workers after which a line is dead (default: the coordinator's work.max_losses)")
	f.DurationVar(&o.spec.ItemTimeout, "item-timeout", 0, "deadline of one call (default: the plugin's call_timeout)")
	f.DurationVar(&o.deadline, "deadline", 0, "lines not finished after this time are dead (default: none)")
	return c
}

// check returns what is wrong with the command line.
func (o *submitOptions) check() error {
	switch {
	case o.plugin == "":
		return usagef("--plugin is missing: name the plugin that works on the lines")
	case o.method == "":
		return usagef("--method is missing: name the method to call")
	case o.input == "":
		return usagef("--input is missing: name a JSONL file, or - for standard input")
	case o.output != "" && !o.wait:
		return usagef("--output needs --wait; without it, fetch the results later with: rollout job results ID --output FILE")
	case o.onBadLine != "stop" && o.onBadLine != "error":
		return usagef("--on-bad-line is %q, it must be stop or error", o.onBadLine)
	case o.deadline < 0 || o.spec.ItemTimeout < 0 || o.spec.MaxAttempts < 0 || o.spec.MaxLosses < 0:
		return usagef("times and maxima must not be negative")
	}
	return nil
}

// submit is the command.
func (t *tool) submit(ctx context.Context, o submitOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	o.spec.Plugin, o.spec.Method, o.spec.Source = o.plugin, o.method, o.input
	if o.deadline > 0 {
		o.spec.Deadline = time.Now().Add(o.deadline)
	}
	in, err := openInput(o.input, o.output, t.stdin)
	if err != nil {
		return err
	}
	// Nothing was written to it.
	defer func() { _ = in.Close() }()
	return t.jobs(ctx, func(ctx context.Context, conn *transport.AdminConn) error {
		if !o.wait {
			job, err := t.upload(ctx, conn, o, in)
			switch {
			case err != nil:
				return err
			case t.json:
				return t.printJSON(job)
			}
			_, err = fmt.Fprintln(t.stdout, job.ID)
			return err
		}
		// An output that cannot be written is told before the work is done, not after.
		out, err := t.openOutput(o.output)
		if err != nil {
			return err
		}
		job, err := t.upload(ctx, conn, o, in)
		if err != nil {
			return errors.Join(err, out.discard())
		}
		return t.waitForResults(ctx, conn, job.ID, out)
	})
}

// sayWhoIsMissing tells that nobody can work on a job yet.
func (t *tool) sayWhoIsMissing(ctx context.Context, conn *transport.AdminConn, job core.Job) {
	if job.Workers > 0 || job.State != core.JobRunning {
		return
	}
	// What else is loaded helps against a mistyped name; without it the rest still holds.
	loaded := "no worker has any plugin"
	if rows, err := conn.Workers(ctx); err == nil {
		names := map[string]bool{}
		for _, w := range rows {
			if w.Liveness == core.LivenessAlive || w.Liveness == core.LivenessSuspect {
				for _, p := range w.Plugins {
					names[p.Name] = true
				}
			}
		}
		switch {
		case names[job.Spec.Plugin]:
			return // its worker is on its way back
		case len(names) > 0:
			loaded = "loaded are: " + strings.Join(slices.Sorted(maps.Keys(names)), ", ")
		}
	}
	fmt.Fprintf(t.stderr, "no worker has the plugin %q loaded yet (%s): the items of job %s wait for one\n", job.Spec.Plugin, loaded, job.ID)
}

// openInput opens the lines. The output must not take the place of the input.
func openInput(name, output string, stdin io.Reader) (io.ReadCloser, error) {
	if name == "-" {
		return io.NopCloser(stdin), nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, core.Wrap("submit", core.CodeNotFound, err)
	}
	info, err := f.Stat()
	if err == nil && info.IsDir() {
		err = usagef("--input %s is a directory, name a JSONL file", name)
	}
	if out, oerr := os.Stat(output); err == nil && oerr == nil && os.SameFile(info, out) {
		err = usagef("--output is the input file %s itself, which would be lost: name another file", name)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// upload submits the lines. When the coordinator goes away on the way and the input
// can be read again, it begins anew once the coordinator is back: what an earlier try
// left behind is cancelled there.
func (t *tool) upload(ctx context.Context, conn *transport.AdminConn, o submitOptions, in io.ReadCloser) (core.Job, error) {
	for {
		o.spec.ID = core.NewJobID()
		lines := newLineReader(o.input, in, o.onBadLine == "error")
		job, err := conn.Submit(ctx, o.spec, lines.next)
		if err == nil {
			t.sayWhoIsMissing(ctx, conn, job)
			return job, nil
		}
		if ctx.Err() != nil {
			return core.Job{}, core.Errorf("submit", core.CodeCanceled, "interrupted before every line was submitted: the job is cancelled; run the command again, with --resume to keep what was finished")
		}
		if lines.failed != nil {
			return core.Job{}, lines.failed
		}
		again, ok := in.(io.Seeker)
		if !lostCoordinator(err) {
			return core.Job{}, err
		}
		if !ok {
			return core.Job{}, fmt.Errorf("%w; the input cannot be read again: run the command again, with --resume to keep what was finished", err)
		}
		fmt.Fprintf(t.stderr, "the coordinator went away while lines were being submitted, waiting for it\n")
		if err := t.comeBack(ctx, conn); err != nil {
			return core.Job{}, err
		}
		// The answer may have been lost behind a submission that was complete.
		if job, err := conn.Job(ctx, o.spec.ID); err == nil && job.State != core.JobCanceled && job.State != core.JobOpen {
			t.sayWhoIsMissing(ctx, conn, job)
			return job, nil
		}
		if _, err := again.Seek(0, io.SeekStart); err != nil {
			return core.Job{}, core.Wrap("submit", core.CodeInternal, err)
		}
	}
}

// lostCoordinator reports whether err means that the coordinator cannot be reached at the moment.
func lostCoordinator(err error) bool {
	return core.IsCode(err, core.CodeUnavailable) && !transport.IsRefused(err)
}

// comeBack waits until the coordinator answers again, until ctx ends.
func (t *tool) comeBack(ctx context.Context, conn *transport.AdminConn) error {
	for {
		_, err := conn.Status(ctx)
		if err == nil {
			return nil
		}
		if !worthWaiting(err) && !errors.Is(err, context.Canceled) {
			return err
		}
		select {
		case <-ctx.Done():
			return core.Wrap("wait for the coordinator", core.CodeCanceled, ctx.Err())
		case <-time.After(reachPause):
		}
	}
}
