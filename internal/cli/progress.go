package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// progress follows a job and, on a terminal, shows one line about it.
type progress struct {
	cancel context.CancelFunc
	done   chan struct{}

	mu   sync.Mutex // guards last
	last *core.Job  // once it is over
}

// startProgress begins to follow a job. The line goes to standard error, and only
// to a terminal.
func (t *tool) startProgress(ctx context.Context, conn *transport.AdminConn, id core.JobID) *progress {
	ctx, cancel := context.WithCancel(ctx)
	p := &progress{cancel: cancel, done: make(chan struct{})}
	show := io.Discard
	if f, ok := t.stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		show = f
	}
	go func() {
		defer close(p.done)
		p.run(ctx, t, conn, id, show)
	}()
	return p
}

func (p *progress) run(ctx context.Context, t *tool, conn *transport.AdminConn, id core.JobID, show io.Writer) {
	start := time.Now()
	first := int64(-1)
	width := 0
	for ctx.Err() == nil {
		err := conn.WatchJob(ctx, id, func(j core.Job) error {
			if first < 0 {
				first = j.Counts.Done()
			}
			if j.State == core.JobFinished || j.State == core.JobCanceled {
				p.mu.Lock()
				p.last = &j
				p.mu.Unlock()
			}
			line := progressLine(j, j.Counts.Done()-first, time.Since(start))
			fmt.Fprintf(show, "\r%s%s", line, strings.Repeat(" ", max(0, width-len(line))))
			width = len(line)
			return nil
		})
		if err == nil || !lostCoordinator(err) {
			break
		}
		line := "the coordinator is away, waiting for it"
		fmt.Fprintf(show, "\r%s%s", line, strings.Repeat(" ", max(0, width-len(line))))
		width = len(line)
		if t.comeBack(ctx, conn) != nil {
			break
		}
	}
	if width > 0 {
		fmt.Fprintf(show, "\r%s\r", strings.Repeat(" ", width))
	}
}

// stop ends the following and returns the job if it is over.
func (p *progress) stop() *core.Job {
	p.mu.Lock()
	over := p.last != nil
	p.mu.Unlock()
	if !over {
		// The end of the job is told a moment after its last result.
		select {
		case <-p.done:
		case <-time.After(time.Second):
		}
	}
	p.cancel()
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// progressLine says how far a job is: done, total, rate, time left, failures,
// workers.
func progressLine(j core.Job, since int64, elapsed time.Duration) string {
	c := j.Counts
	line := fmt.Sprintf("%d/%d", c.Done(), c.Items)
	if c.Items > 0 {
		line += fmt.Sprintf(" (%d%%)", 100*c.Done()/c.Items)
	}
	if sec := elapsed.Seconds(); sec > 0.5 && since > 0 {
		rate := float64(since) / sec
		left := time.Duration(float64(c.Items-c.Done()) / rate * float64(time.Second))
		line += fmt.Sprintf("  %s  %s left", perSecond(rate), left.Round(time.Second))
	}
	if n := c.Error + c.Dead; n > 0 {
		line += fmt.Sprintf("  %d failed", n)
	}
	return line + "  " + count(j.Workers, "worker")
}
