package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// output is where results go: a file that is complete or FILE.partial, or standard
// output.
type output struct {
	path string // empty: standard output
	file *os.File
	w    *bufio.Writer
}

func (t *tool) openOutput(path string) (*output, error) {
	if path == "" || path == "-" {
		return &output{w: bufio.NewWriterSize(t.stdout, 64<<10)}, nil
	}
	f, err := os.OpenFile(path+".partial", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, core.Wrap("write results", core.CodeInvalidArgument, err)
	}
	return &output{path: path, file: f, w: bufio.NewWriterSize(f, 256<<10)}, nil
}

// write adds one line.
func (o *output) write(r core.ItemResult) error {
	b, err := json.Marshal(r)
	if err != nil {
		return core.Wrap("write results", core.CodeInternal, err)
	}
	if _, err = o.w.Write(append(b, '\n')); err == nil && o.file == nil {
		err = o.w.Flush() // whoever reads the stream wants each line as it comes
	}
	return core.Wrap("write results", core.CodeInternal, err)
}

// finish makes a complete output durable under its name.
func (o *output) finish() error {
	const op = "write results"
	if err := o.w.Flush(); err != nil || o.file == nil {
		return core.Wrap(op, core.CodeInternal, err)
	}
	err := errors.Join(o.file.Sync(), o.file.Close())
	if err == nil {
		err = os.Rename(o.path+".partial", o.path)
	}
	if err != nil {
		return core.Wrap(op, core.CodeInternal, err)
	}
	dir, err := os.Open(filepath.Dir(o.path))
	if err != nil {
		return core.Wrap(op, core.CodeInternal, err)
	}
	return core.Wrap(op, core.CodeInternal, errors.Join(dir.Sync(), dir.Close()))
}

// discard takes back an output into which nothing was to be written.
func (o *output) discard() error {
	if o.file == nil {
		return nil
	}
	return core.Wrap("write results", core.CodeInternal, errors.Join(o.file.Close(), os.Remove(o.file.Name())))
}

// abandon leaves what there is as FILE.partial.
func (o *output) abandon() error {
	err := o.w.Flush()
	if o.file != nil {
		err = errors.Join(err, o.file.Close())
	}
	return core.Wrap("write results", core.CodeInternal, err)
}

// waitForResults writes a job's results as they come until the job is over. It
// outlives coordinators. Its error says when not every item is ok.
func (t *tool) waitForResults(ctx context.Context, conn *transport.AdminConn, id core.JobID, out *output) error {
	var tally resultTally
	bar := t.startProgress(ctx, conn, id)
	err := t.follow(ctx, conn, id, func(r core.ItemResult) error {
		tally.add(r)
		return out.write(r)
	})
	job := bar.stop()
	if err != nil {
		aerr := out.abandon()
		back := fmt.Sprintf("job %s goes on; come back with: rollout job results %s --wait%s%s", id, id, flagText("--output", out.path), t.reachFlags())
		if ctx.Err() != nil {
			return errors.Join(core.Errorf("", core.CodeCanceled, "interrupted: %s", back), aerr)
		}
		return errors.Join(fmt.Errorf("%w; %s", err, back), aerr)
	}
	if err := out.finish(); err != nil {
		return err
	}
	if job == nil {
		j, err := conn.Job(ctx, id)
		if err != nil {
			return err
		}
		job = &j
	}
	return t.conclude(*job, tally, out)
}

// reachFlags repeats what this command line said about where the coordinator is.
func (t *tool) reachFlags() string {
	text := flagText("--addr", t.addr) + flagText("--tls-dir", t.tlsDir) + flagText("--data-dir", t.dataDir)
	for _, f := range t.files {
		text += flagText("--config", f)
	}
	return text
}

// flagText is a flag as a shell reads it, nothing when it has no value.
func flagText(name, value string) string {
	if value == "" {
		return ""
	}
	if strings.ContainsFunc(value, func(r rune) bool { return !strings.ContainsRune(plainText, r) }) {
		value = "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
	}
	return " " + name + " " + value
}

// plainText holds what a shell takes as it stands.
const plainText = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./:,+@%="

// follow sends every result in order, across restarts of the coordinator.
func (t *tool) follow(ctx context.Context, conn *transport.AdminConn, id core.JobID, each func(core.ItemResult) error) error {
	next := int64(0)
	for {
		err := conn.Results(ctx, id, next, true, func(r core.ItemResult) error {
			next = r.Index + 1
			return each(r)
		})
		if err == nil || !lostCoordinator(err) || ctx.Err() != nil {
			return err
		}
		if err := t.comeBack(ctx, conn); err != nil {
			return err
		}
	}
}

// resultTally counts what was written.
type resultTally struct{ ok, failed, dead int64 }

func (c *resultTally) add(r core.ItemResult) {
	switch r.Status {
	case core.ResultOK:
		c.ok++
	case core.ResultError:
		c.failed++
	default:
		c.dead++
	}
}

// conclude says how the job ended.
func (t *tool) conclude(job core.Job, c resultTally, out *output) error {
	took := job.FinishedAt.Sub(job.CreatedAt)
	total := c.ok + c.failed + c.dead
	rate := float64(total) / max(took.Seconds(), 0.001)
	switch {
	case t.json && out.file != nil:
		if err := t.printJSON(job); err != nil {
			return err
		}
	default:
		fmt.Fprintf(t.stderr, "job %s %s: %s: %d ok, %d error, %d dead in %s (%s)", job.ID, job.State, count(int(total), "item"), c.ok, c.failed, c.dead, round(took), perSecond(rate))
		if job.Counts.Resumed > 0 {
			fmt.Fprintf(t.stderr, ", %d taken from earlier jobs", job.Counts.Resumed)
		}
		if job.Counts.Losses > 0 {
			fmt.Fprintf(t.stderr, ", %d done again after their worker died", job.Counts.Losses)
		}
		fmt.Fprintln(t.stderr)
	}
	if c.ok != total || job.State == core.JobCanceled {
		return core.Errorf("", core.CodeInternal, "%d of %d items are not ok; their result lines say why", total-c.ok, total)
	}
	return nil
}

func round(d time.Duration) time.Duration {
	if d < 10*time.Second {
		return d.Round(10 * time.Millisecond)
	}
	return d.Round(time.Second)
}

// perSecond is a rate for people.
func perSecond(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.1f/s", rate)
	}
	return fmt.Sprintf("%.0f/s", rate)
}

// sendAll writes the results that are there to an output. Those of a job that goes on
// stay in FILE.partial.
func (t *tool) sendAll(ctx context.Context, jobs core.Jobs, id core.JobID, path string) error {
	job, err := jobs.Job(ctx, id) // before the results: what was over then is complete
	if err != nil {
		return suggest(err, "rollout jobs lists those that are known")
	}
	out, err := t.openOutput(path)
	if err != nil {
		return err
	}
	if err := jobs.Results(ctx, id, 0, false, out.write); err != nil {
		return errors.Join(err, out.abandon())
	}
	over := job.State == core.JobFinished || job.State == core.JobCanceled
	if over || out.file == nil {
		return out.finish()
	}
	if err := out.abandon(); err != nil {
		return err
	}
	return core.Errorf("", core.CodeFailedPrecondition, "job %s is %s, the results that are there are in %s.partial; --wait waits for the others", id, job.State, path)
}
