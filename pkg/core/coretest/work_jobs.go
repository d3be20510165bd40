package coretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func jobsChecks() []WorkCheck {
	return []WorkCheck{
		{"every line has one result, in input order, bad lines included", checkJobLines},
		{"a line of the largest size is taken, and a larger one is an error line", checkJobLargeLine},
		{"results are read from an index on, at once or as they come", checkJobResults},
		{"a watch tells of changes until the job is over", checkJobWatch},
		{"a cancelled job has a result for every line and takes no more", checkJobCancel},
		{"dead items are shown, tried again and dropped", checkJobDead},
		{"peek and the queue's counts show what is left", checkJobPeek},
		{"jobs are listed newest first", checkJobList},
		{"a job's id may be chosen once", checkJobID},
		{"a submission that breaks off is a cancelled job", checkJobBrokenOff},
		{"an unknown job is not found", checkJobUnknown},
		{"a job that could not run is refused", checkJobRefused},
	}
}

func (p *workProbe) finish(s core.WorkSession, n int) {
	p.accept(s, workAnswers(p.pull(s, n)...)...)
}

func checkJobLines(p *workProbe) {
	items := []core.JobItem{
		{ID: "one", Payload: []byte(`{"n":1}`)},
		{ID: "two", Err: &core.ItemError{Code: core.CodeInvalidArgument, Message: "line 2 is not JSON"}},
		{ID: "three", Payload: []byte(`{"n":3}`)},
		{ID: strings.Repeat("i", 2000), Payload: []byte(`{"n":4}`)},
	}
	i := 0
	j, err := p.f.Jobs.Submit(p.ctx, workSpec, func() (core.JobItem, error) {
		if i == len(items) {
			return core.JobItem{}, io.EOF
		}
		i++
		return items[i-1], nil
	})
	p.must(err, "submit")
	p.check(j.State == core.JobRunning && j.Counts.Items == 4 && j.Counts.Error == 2, "submitted: %+v", j)
	s := p.attach(workRef(1, 1))
	todo := p.pull(s, 2)
	p.accept(s, core.WorkResult{Lease: todo[1].Lease, Result: []byte(`{"score":3}`)}, core.WorkResult{Lease: todo[0].Lease, Result: []byte("not JSON")})
	rs := p.results(j.ID, 0, true)
	p.check(len(rs) == 4, "%d results", len(rs))
	p.check(rs[0].ID == "one" && rs[0].Status == core.ResultOK && string(rs[0].Result) == `{"base64":"bm90IEpTT04="}`, "result 0 is %+v", rs[0])
	p.check(rs[1].ID == "two" && rs[1].Status == core.ResultError && rs[1].Error.Message == "line 2 is not JSON" && rs[1].Error.Code == core.CodeInvalidArgument, "result 1 is %+v", rs[1])
	p.check(rs[2].ID == "three" && string(rs[2].Result) == `{"score":3}`, "result 2 is %+v", rs[2])
	p.check(rs[3].Status == core.ResultError && len(rs[3].ID) <= 1<<10, "a line with an id of 2,000 bytes is %+v", rs[3])
	p.check(p.job(j.ID).State == core.JobFinished, "the job is %+v", p.job(j.ID))
}

func checkJobLargeLine(p *workProbe) {
	largest := strings.Repeat("x", core.MaxCallPayload)
	j := p.submitJob(workSpec, largest, largest+"y", "small")
	s := p.attach(workRef(1, 1))
	items := p.pull(s, 2)
	p.check(items[0].Content == core.SumContent([]byte(largest)) && string(items[1].Payload) == "small", "pulled %q and %q", items[0].ID, items[1].ID)
	got, err := p.link(1).Download(p.ctx, items[0].Content, core.MaxCallPayload)
	p.must(err, "download")
	p.check(string(got) == largest, "%d other bytes came", len(got))
	p.accept(s, workAnswers(items...)...)
	rs := p.results(j.ID, 0, true)
	p.check(len(rs) == 3 && rs[1].Status == core.ResultError && rs[1].Error.Code == core.CodeTooLarge, "the line that is too large is %+v", rs[1])
}

func checkJobResults(p *workProbe) {
	j := p.submitJob(workSpec, "a", "b", "c")
	s := p.attach(workRef(1, 1))
	items := p.pull(s, 3)
	p.accept(s, workAnswers(items[2])...)
	now := p.results(j.ID, 0, false)
	p.check(len(now) == 1 && now[0].Index == 2, "at once: %+v", now)
	ch := make(chan []int64, 1)
	errs := make(chan error, 1)
	go func() {
		var got []int64
		errs <- p.f.Jobs.Results(p.ctx, j.ID, 1, true, func(r core.ItemResult) error { got = append(got, r.Index); return nil })
		ch <- got
	}()
	p.must(stillWaits(errs), "waiting for the second result")
	p.accept(s, workAnswers(items[1], items[0])...)
	p.must(<-errs, "results")
	if got := <-ch; fmt.Sprint(got) != "[1 2]" {
		p.failf("from index 1 came %v", got)
	}
	enough := errors.New("enough")
	err := p.f.Jobs.Results(p.ctx, j.ID, 0, true, func(core.ItemResult) error { return enough })
	p.check(errors.Is(err, enough), "a receiver that has enough ends it with %v", err)
}

func checkJobWatch(p *workProbe) {
	j := p.submitJob(workSpec, "a", "b")
	began := make(chan struct{})
	done := make(chan error, 1)
	var last core.Job
	n := 0
	go func() {
		done <- p.f.Jobs.WatchJob(p.ctx, j.ID, func(j core.Job) error {
			if n++; n == 1 {
				close(began)
			}
			last = j
			return nil
		})
	}()
	<-began
	p.finish(p.attach(workRef(1, 1)), 2)
	p.must(<-done, "watch")
	p.check(n >= 2 && last.State == core.JobFinished && last.Counts.OK == 2 && last.ID == j.ID, "%d tellings, the last %+v", n, last)
	ctx, cancel := context.WithCancel(p.ctx)
	other := p.submitJob(workSpec, "c")
	err := p.f.Jobs.WatchJob(ctx, other.ID, func(core.Job) error { cancel(); return nil })
	p.code(err, core.CodeCanceled, "a watch whose context ends")
}

func checkJobCancel(p *workProbe) {
	j := p.submitJob(workSpec, "a", "b", "c")
	s := p.attach(workRef(1, 1))
	items := p.pull(s, 2)
	p.accept(s, workAnswers(items[0])...)
	p.must(p.f.Jobs.CancelJob(p.ctx, j.ID, "a mistake"), "cancel")
	errs, err := s.Submit(p.ctx, workAnswers(items[1]))
	p.must(err, "submit")
	p.code(errs[0], core.CodeLeaseLost, "a result of a cancelled job")
	rs := p.results(j.ID, 0, true)
	p.check(len(rs) == 3 && rs[0].Status == core.ResultOK && rs[1].Status == core.ResultDead && rs[2].Error.Code == core.CodeCanceled && rs[2].Error.Message == "a mistake", "the results are %+v", rs)
	got := p.job(j.ID)
	p.check(got.State == core.JobCanceled && got.Reason == "a mistake" && got.Counts.Dead == 2 && got.Counts.Leased == 0, "the job is %+v", got)
	p.must(p.f.Jobs.CancelJob(p.ctx, j.ID, ""), "a second cancel")
	p.pulling(p.ctx, s)
}

func checkJobDead(p *workProbe) {
	spec := workSpec
	spec.MaxAttempts = 1
	j := p.submitJob(spec, "a", strings.Repeat("b", core.MaxInlinePayload+1), "c")
	s := p.attach(workRef(1, 1))
	for _, it := range p.pull(s, 3) {
		p.accept(s, core.WorkResult{Lease: it.Lease, Err: core.Errorf("", core.CodePluginCrashed, "exit status 3")})
	}
	dead, err := p.f.Jobs.DeadItems(p.ctx, j.ID, 0, 10)
	p.must(err, "list dead items")
	p.check(len(dead) == 3 && dead[0].State == "dead" && dead[0].Attempts == 1 && string(dead[0].Payload) == "a" && dead[0].IdempotencyKey == "id0", "dead: %+v", dead)
	p.check(len(dead[1].Payload) == core.MaxInlinePayload+1, "the large dead item shows %d bytes", len(dead[1].Payload))
	p.check(len(dead[0].History) == 1 && dead[0].History[0].Code == core.CodePluginCrashed && strings.Contains(dead[0].History[0].Reason, "exit status 3"), "history: %+v", dead[0].History)
	page, err := p.f.Jobs.DeadItems(p.ctx, j.ID, dead[0].ID, 1)
	p.check(err == nil && len(page) == 1 && page[0].ID == dead[1].ID, "behind the first comes %+v, %v", page, err)
	n, err := p.f.Jobs.RequeueDead(p.ctx, j.ID, dead[2].ID)
	p.check(err == nil && n == 1, "requeued %d, %v", n, err)
	p.check(p.job(j.ID).State == core.JobRunning, "the job is not open again: %+v", p.job(j.ID))
	p.finish(s, 1)
	rs := p.results(j.ID, 0, true)
	p.check(len(rs) == 3 && rs[2].Status == core.ResultOK && rs[0].Status == core.ResultDead, "the results are %+v", rs)
	n, err = p.f.Jobs.DropDead(p.ctx, j.ID)
	p.check(err == nil && n == 2, "dropped %d, %v", n, err)
	c := p.job(j.ID).Counts
	p.check(c.OK == 1 && c.Dead == 2, "counts after the drop: %+v", c)
}

func checkJobPeek(p *workProbe) {
	j := p.submitJob(workSpec, "a", "b", strings.Repeat("c", core.MaxInlinePayload+1))
	p.pull(p.attach(workRef(1, 1)), 1)
	es, err := p.f.Jobs.PeekJob(p.ctx, j.ID, 0, 10)
	p.must(err, "peek")
	p.check(len(es) == 3 && es[0].State == "leased" && es[0].Owner == owner(1) && es[1].State == "ready" && string(es[1].Payload) == "b" && es[1].IdempotencyKey == "id1", "peek shows %+v", es[:min(2, len(es))])
	p.check(len(es[2].Payload) == core.MaxInlinePayload+1, "the large item shows %d bytes", len(es[2].Payload))
	st, err := p.f.Jobs.JobQueue(p.ctx, j.ID)
	p.must(err, "count")
	p.check(st.Ready == 2 && st.Leased == 1 && st.Dead == 0 && st.Delayed == 0, "counted %+v", st)
}

func checkJobList(p *workProbe) {
	none, err := p.f.Jobs.Jobs(p.ctx, 0)
	p.check(err == nil && len(none) == 0, "a fresh coordinator has jobs %+v, %v", none, err)
	var ids []core.JobID
	var last core.JobID
	for range 3 {
		spec := workSpec
		// Ids of one millisecond are in no order.
		for spec.ID = core.NewJobID(); bytes.Compare(spec.ID[:], last[:]) <= 0; spec.ID = core.NewJobID() {
		}
		last = spec.ID
		ids = append(ids, p.submitJob(spec, "a").ID)
	}
	all, err := p.f.Jobs.Jobs(p.ctx, 0)
	p.check(err == nil && len(all) == 3 && all[0].ID == ids[2] && all[2].ID == ids[0], "listed %+v, %v", all, err)
	two, err := p.f.Jobs.Jobs(p.ctx, 2)
	p.check(err == nil && len(two) == 2 && two[1].ID == ids[1], "two of them: %+v, %v", two, err)
	p.attach(workRef(1, 1))
	p.check(p.job(ids[0]).Workers == 1, "%d workers can serve the job, want 1", p.job(ids[0]).Workers)
}

func checkJobID(p *workProbe) {
	spec := workSpec
	spec.ID = core.NewJobID()
	j := p.submitJob(spec, "a")
	p.check(j.ID == spec.ID, "the job is called %s, not %s", j.ID, spec.ID)
	_, err := p.f.Jobs.Submit(p.ctx, spec, workLines("b"))
	p.code(err, core.CodeAlreadyExists, "a second job of the same id")
	p.check(p.job(spec.ID).Counts.Items == 1, "the second submission changed the first")
}

func checkJobBrokenOff(p *workProbe) {
	spec := workSpec
	spec.ID = core.NewJobID()
	broken := errors.New("the file is gone")
	n := 0
	_, err := p.f.Jobs.Submit(p.ctx, spec, func() (core.JobItem, error) {
		if n++; n > 700 {
			return core.JobItem{}, broken
		}
		return core.JobItem{ID: fmt.Sprint(n), Payload: []byte("x")}, nil
	})
	p.check(errors.Is(err, broken), "the submission ends with %v", err)
	// Over a wire the coordinator may learn of it later than the submitter, or of
	// nothing at all.
	for {
		j, err := p.f.Jobs.Job(p.ctx, spec.ID)
		if core.IsCode(err, core.CodeNotFound) {
			return
		}
		p.must(err, "show the job")
		if j.State == core.JobCanceled {
			return
		}
		p.must(p.ctx.Err(), "waiting for the job to be cancelled")
	}
}

func checkJobUnknown(p *workProbe) {
	id := core.NewJobID()
	jobs := p.f.Jobs
	_, e1 := jobs.Job(p.ctx, id)
	_, e2 := jobs.JobQueue(p.ctx, id)
	_, e3 := jobs.PeekJob(p.ctx, id, 0, 1)
	_, e4 := jobs.DeadItems(p.ctx, id, 0, 1)
	_, e5 := jobs.RequeueDead(p.ctx, id)
	_, e6 := jobs.DropDead(p.ctx, id)
	e7 := jobs.CancelJob(p.ctx, id, "")
	e8 := jobs.Results(p.ctx, id, 0, true, func(core.ItemResult) error { return nil })
	e9 := jobs.WatchJob(p.ctx, id, func(core.Job) error { return nil })
	for i, err := range []error{e1, e2, e3, e4, e5, e6, e7, e8, e9} {
		p.code(err, core.CodeNotFound, fmt.Sprint("call ", i+1))
	}
}

func checkJobRefused(p *workProbe) {
	for i, edit := range []func(*core.JobSpec){
		func(s *core.JobSpec) { s.Plugin = "" },
		func(s *core.JobSpec) { s.Method = "" },
		func(s *core.JobSpec) { s.Method = strings.Repeat("m", core.MaxMethodLen+1) },
		func(s *core.JobSpec) { s.MaxAttempts = -1 },
		func(s *core.JobSpec) { s.ItemTimeout = -1 },
	} {
		spec := workSpec
		edit(&spec)
		_, err := p.f.Jobs.Submit(p.ctx, spec, workLines("a"))
		p.code(err, core.CodeInvalidArgument, fmt.Sprint("case ", i+1))
	}
}
