package coretest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// WorkFixture is one fresh coordinator without jobs, as workers and operators
// reach it.
type WorkFixture struct {
	Jobs core.Jobs
	// Work returns how a worker reaches the coordinator.
	Work func(id core.WorkerID) (WorkLink, error)
	// Break ends a session as a broken network does, without telling anybody.
	Break func(s core.WorkSession) error
	// Release ends a worker's epoch, as the coordinator does when it is lost (a
	// loss) or leaves.
	Release func(w core.WorkerRef, loss bool) error
	// Restart stops the coordinator and starts it again on the same rows. It may
	// replace Jobs. Links stay good, sessions end.
	Restart func() error
}

// WorkLink is a worker's way to hand over large payloads and to get work.
type WorkLink interface {
	core.Work
	// Upload stores b durably and returns its id.
	Upload(ctx context.Context, b []byte) (core.ContentID, error)
	// Download returns an object of at most limit bytes, verified.
	Download(ctx context.Context, id core.ContentID, limit int64) ([]byte, error)
}

// WorkCheck is one sentence of the contract of [core.Work], [core.WorkSession] or
// [core.Jobs] and the check that holds an implementation to it.
type WorkCheck struct {
	Rule  string
	check func(p *workProbe)
}

// RunWork runs every check against a fresh fixture of its own. open registers
// whatever clean-up it needs with t. The coordinator must retry failures within
// milliseconds, so that the checks need not wait.
func RunWork(t *testing.T, open func(t *testing.T) *WorkFixture) {
	t.Helper()
	for _, c := range WorkChecks() {
		t.Run(subtestName(c.Rule), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			if err := c.Check(ctx, open(t)); err != nil {
				t.Errorf("rule broken: %s\n%v", c.Rule, err)
			}
		})
	}
}

// WorkChecks returns the checks, for callers that run them one by one.
func WorkChecks() []WorkCheck { return slices.Concat(sessionChecks(), jobsChecks()) }

// Check runs the check and returns what it saw.
func (c WorkCheck) Check(ctx context.Context, f *WorkFixture) (err error) {
	p := &workProbe{ctx: ctx, f: f}
	defer func() {
		if r := recover(); r != nil {
			b, ok := r.(broken)
			if !ok {
				panic(r)
			}
			err = b.err
		}
		for _, s := range p.sessions {
			if cerr := s.Close(); err == nil && cerr != nil {
				err = fmt.Errorf("close: %w", cerr)
			}
		}
	}()
	c.check(p)
	return nil
}

// workProbe is what the checks look at a coordinator with. Its methods end the
// check when something is wrong, so they are for the check's own goroutine only.
type workProbe struct {
	ctx      context.Context
	f        *WorkFixture
	sessions []core.WorkSession
}

func (p *workProbe) failf(format string, args ...any) { panic(broken{fmt.Errorf(format, args...)}) }

func (p *workProbe) must(err error, what string) {
	if err != nil {
		p.failf("%s: %w", what, err)
	}
}

func (p *workProbe) code(err error, want core.Code, what string) {
	if got := core.CodeOf(err); err == nil || got != want {
		p.failf("%s: got code %v (%w), want %v", what, got, errOrNone(err), want)
	}
}

func (p *workProbe) check(ok bool, format string, args ...any) {
	if !ok {
		p.failf(format, args...)
	}
}

var workSpec = core.JobSpec{Plugin: "reward", Digest: "d1", Method: "score"}

var workPlugins = []core.LoadedPlugin{{Name: "reward", Version: "1", Digest: "d1", Mode: core.ModeSidecar}}

func workRef(n byte, epoch uint64) core.WorkerRef {
	return core.WorkerRef{ID: owner(n), Epoch: epoch}
}

// workLines yields items whose ids are their numbers.
func workLines(payloads ...string) func() (core.JobItem, error) {
	i := 0
	return func() (core.JobItem, error) {
		if i == len(payloads) {
			return core.JobItem{}, io.EOF
		}
		i++
		return core.JobItem{ID: fmt.Sprint("id", i-1), Payload: []byte(payloads[i-1])}, nil
	}
}

func (p *workProbe) submitJob(spec core.JobSpec, payloads ...string) core.Job {
	j, err := p.f.Jobs.Submit(p.ctx, spec, workLines(payloads...))
	p.must(err, "submit a job")
	return j
}

func (p *workProbe) link(n byte) WorkLink {
	l, err := p.f.Work(owner(n))
	p.must(err, "reach the coordinator")
	return l
}

func (p *workProbe) attach(ref core.WorkerRef, holding ...core.Lease) core.WorkSession {
	s, err := p.link(ref.ID[15]).Attach(p.ctx, ref, workPlugins, holding)
	p.must(err, "attach")
	p.sessions = append(p.sessions, s)
	return s
}

// pull takes n items, however many pulls that needs.
func (p *workProbe) pull(s core.WorkSession, n int) []core.WorkItem {
	var out []core.WorkItem
	for len(out) < n {
		items, err := s.Pull(p.ctx, core.PullBudget{Slots: 1})
		p.must(err, "pull")
		out = append(out, items...)
	}
	return out
}

func workAnswers(items ...core.WorkItem) []core.WorkResult {
	out := make([]core.WorkResult, len(items))
	for i, it := range items {
		out[i] = core.WorkResult{Lease: it.Lease, Result: []byte(`"` + string(it.Payload) + `"`)}
	}
	return out
}

func (p *workProbe) accept(s core.WorkSession, results ...core.WorkResult) {
	errs, err := s.Submit(p.ctx, results)
	p.must(err, "submit results")
	p.check(len(errs) == len(results), "%d outcomes for %d results", len(errs), len(results))
	p.must(errors.Join(errs...), "submit results")
}

func (p *workProbe) results(id core.JobID, from int64, wait bool) []core.ItemResult {
	var out []core.ItemResult
	p.must(p.f.Jobs.Results(p.ctx, id, from, wait, func(r core.ItemResult) error { out = append(out, r); return nil }), "results")
	return out
}

func (p *workProbe) job(id core.JobID) core.Job {
	j, err := p.f.Jobs.Job(p.ctx, id)
	p.must(err, "show the job")
	return j
}

// pulled is what a pull in the background came to.
type pulled struct {
	items []core.WorkItem
	err   error
}

// pulling begins a pull that is expected to wait.
func (p *workProbe) pulling(ctx context.Context, s core.WorkSession) <-chan pulled {
	ch := make(chan pulled, 1)
	go func() {
		items, err := s.Pull(ctx, core.PullBudget{Slots: 1})
		ch <- pulled{items, err}
	}()
	p.must(stillWaits(ch), "a pull without anything to do")
	return ch
}
