package coretest

import (
	"bytes"
	"context"
	"fmt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func sessionChecks() []WorkCheck {
	return []WorkCheck{
		{"an item reaches a worker with all that it needs", checkItemWhole},
		{"a pull waits for items that the worker can serve", checkPullWaits},
		{"a pull keeps to its slots and bytes", checkPullBudget},
		{"a result is committed once", checkSubmitOnce},
		{"nobody can hand in a result for another's lease", checkSubmitForeign},
		{"a lost stream keeps its leases, and the next one tells what became of them", checkResume},
		{"a newer session replaces the older", checkReplace},
		{"an epoch that is over can neither pull, submit nor attach, and its items go to others as losses", checkEpochOver},
		{"a failure that may be retried comes back until its attempts are used up", checkWorkRetry},
		{"a final failure is a result at once", checkWorkFinal},
		{"what is returned is handed out again and nothing is counted", checkWorkReturn},
		{"new plugins count from the next pull on", checkSetPlugins},
		{"large payloads and results travel as content", checkContent},
		{"a result whose content is not there is refused and its lease stays", checkContentMissing},
		{"many large results are answered one by one, in order", checkManyResults},
		{"a restart of the coordinator costs no lease and no result", checkWorkRestart},
	}
}

func checkItemWhole(p *workProbe) {
	spec := workSpec
	spec.ItemTimeout = 7e9
	j := p.submitJob(spec, "a", "b")
	it := p.pull(p.attach(workRef(1, 1)), 2)[1]
	p.check(it.Job == j.ID && it.Index == 1 && it.ID == "id1" && it.Plugin == "reward" && it.Digest == "d1" && it.Method == "score" &&
		string(it.Payload) == "b" && it.Attempt == 1 && it.Timeout == 7e9 && it.Deadline.IsZero() && it.Content.IsZero(), "the item is %+v", it)
	p.check(it.Lease.Owner == owner(1) && it.Lease.Epoch == 1 && it.Lease.Token != 0, "the lease is %+v", it.Lease)
}

func checkPullWaits(p *workProbe) {
	s := p.attach(workRef(1, 1))
	other := workSpec
	other.Digest = "d2"
	p.submitJob(other, "for another digest")
	ch := p.pulling(p.ctx, s)
	p.submitJob(workSpec, "mine")
	got := <-ch
	p.must(got.err, "pull")
	p.check(len(got.items) == 1 && string(got.items[0].Payload) == "mine", "pulled %+v", got.items)
	// A pull whose context ends takes nothing along.
	ctx, cancel := context.WithCancel(p.ctx)
	ch = p.pulling(ctx, s)
	cancel()
	p.code((<-ch).err, core.CodeCanceled, "a cancelled pull")
	p.submitJob(workSpec, "next")
	p.check(string(p.pull(s, 1)[0].Payload) == "next", "an item was lost with a cancelled pull")
}

func checkPullBudget(p *workProbe) {
	var payloads []string
	for i := range 64 {
		payloads = append(payloads, fmt.Sprintf("%080d", i))
	}
	p.submitJob(workSpec, payloads...)
	s := p.attach(workRef(1, 1))
	items, err := s.Pull(p.ctx, core.PullBudget{Slots: 3})
	p.must(err, "pull")
	p.check(len(items) == 6, "%d items for 3 slots, want 6", len(items))
	// The rows around a payload count too, so the fourth does not fit.
	items, err = s.Pull(p.ctx, core.PullBudget{Slots: 8, Bytes: 500})
	p.must(err, "pull")
	p.check(len(items) >= 1 && len(items) <= 5, "%d items of more than 80 bytes for 500 bytes", len(items))
	items, err = s.Pull(p.ctx, core.PullBudget{Slots: 8, Bytes: 10})
	p.must(err, "pull")
	p.check(len(items) == 1, "%d items where the first is larger than the budget", len(items))
}

func checkSubmitOnce(p *workProbe) {
	j := p.submitJob(workSpec, "a", "b")
	s := p.attach(workRef(1, 1))
	items := p.pull(s, 2)
	p.accept(s, workAnswers(items[0])...)
	errs, err := s.Submit(p.ctx, append(workAnswers(items[1]), core.WorkResult{Lease: items[0].Lease, Result: []byte("again")}))
	p.must(err, "submit")
	p.must(errs[0], "a result beside a stale one")
	p.code(errs[1], core.CodeLeaseLost, "a second result")
	rs := p.results(j.ID, 0, true)
	p.check(len(rs) == 2 && string(rs[0].Result) == `"a"`, "the results are %+v", rs)
}

func checkSubmitForeign(p *workProbe) {
	p.submitJob(workSpec, "a")
	it := p.pull(p.attach(workRef(1, 1)), 1)[0]
	thief := p.attach(workRef(2, 1))
	stolen := it
	stolen.Lease.Owner = owner(2)
	for _, l := range []core.WorkItem{it, stolen} {
		errs, err := thief.Submit(p.ctx, workAnswers(l))
		p.must(err, "submit")
		p.code(errs[0], core.CodeLeaseLost, "a result for another's lease")
	}
}

func checkResume(p *workProbe) {
	j := p.submitJob(workSpec, "a", "b", "c")
	s := p.attach(workRef(1, 1))
	items := p.pull(s, 3)
	p.accept(s, workAnswers(items[0])...)
	p.must(p.f.Break(s), "break the stream")
	next := p.attach(workRef(1, 1), items[0].Lease, items[1].Lease)
	missed, lost := next.Resumed()
	p.check(len(missed) == 1 && missed[0].Lease == items[2].Lease && string(missed[0].Payload) == "c" && missed[0].Attempt == 1, "missed: %+v", missed)
	p.check(len(lost) == 1 && lost[0] == items[0].Lease, "lost: %+v, want the one that is finished", lost)
	p.accept(next, workAnswers(items[1], missed[0])...)
	p.check(p.job(j.ID).Counts.OK == 3, "the job is %+v", p.job(j.ID))
}

func checkReplace(p *workProbe) {
	p.submitJob(workSpec, "a")
	old := p.attach(workRef(1, 1))
	item := p.pull(old, 1)[0]
	ch := p.pulling(p.ctx, old)
	next := p.attach(workRef(1, 1), item.Lease)
	p.code((<-ch).err, core.CodeConflict, "the older session's pull")
	p.accept(next, workAnswers(item)...)
}

func checkEpochOver(p *workProbe) {
	p.submitJob(workSpec, "a", "b")
	s := p.attach(workRef(1, 1))
	held := p.pull(s, 2)
	ch := p.pulling(p.ctx, s)
	p.must(p.f.Release(workRef(1, 1), true), "release the epoch")
	p.code((<-ch).err, core.CodeFenced, "a pull of an epoch that is over")
	_, err := s.Submit(p.ctx, workAnswers(held...))
	p.code(err, core.CodeFenced, "a submit of an epoch that is over")
	_, err = p.link(1).Attach(p.ctx, workRef(1, 1), workPlugins, nil)
	p.code(err, core.CodeFenced, "an attach of an epoch that is over")
	again := p.pull(p.attach(workRef(2, 1)), 2)
	p.check(again[0].Attempt == 1 && again[1].Attempt == 1, "a loss counts as an attempt: %+v", again)
	newer := p.attach(workRef(1, 2))
	missed, _ := newer.Resumed()
	p.check(len(missed) == 0, "the next epoch takes over %+v", missed)
}

func checkWorkRetry(p *workProbe) {
	spec := workSpec
	spec.MaxAttempts = 2
	j := p.submitJob(spec, "a")
	s := p.attach(workRef(1, 1))
	crash := core.Errorf("", core.CodePluginCrashed, "exit status 139")
	for attempt := 1; attempt <= 2; attempt++ {
		it := p.pull(s, 1)[0]
		p.check(it.Attempt == attempt, "attempt %d, want %d", it.Attempt, attempt)
		p.accept(s, core.WorkResult{Lease: it.Lease, Err: crash})
	}
	r := p.results(j.ID, 0, true)[0]
	p.check(r.Status == core.ResultDead && r.Error != nil && r.Error.Code == core.CodePluginCrashed && r.Attempts == 2, "the result is %+v", r)
}

func checkWorkFinal(p *workProbe) {
	j := p.submitJob(workSpec, "a")
	s := p.attach(workRef(1, 1))
	it := p.pull(s, 1)[0]
	p.accept(s, core.WorkResult{Lease: it.Lease, Err: core.Errorf("", core.CodePluginError, "no answer in the completion")})
	r := p.results(j.ID, 0, true)[0]
	p.check(r.Status == core.ResultError && r.Error.Code == core.CodePluginError && r.Attempts == 1 && r.WorkerID == owner(1), "the result is %+v", r)
}

func checkWorkReturn(p *workProbe) {
	j := p.submitJob(workSpec, "a", "b")
	s := p.attach(workRef(1, 1))
	items := p.pull(s, 2)
	p.must(s.Return(p.ctx, []core.Lease{items[0].Lease, items[1].Lease}, "leaving"), "return")
	errs, err := s.Submit(p.ctx, workAnswers(items[0]))
	p.must(err, "submit")
	p.code(errs[0], core.CodeLeaseLost, "a result of a returned item")
	again := p.pull(p.attach(workRef(2, 1)), 2)
	p.check(again[0].Attempt == 1 && again[0].ID == "id0", "handed out again: %+v", again[0])
	c := p.job(j.ID).Counts
	p.check(c.Losses == 0 && c.Leased == 2, "counts %+v", c)
}

func checkSetPlugins(p *workProbe) {
	other := workSpec
	other.Plugin, other.Digest = "judge", "j1"
	s := p.attach(workRef(1, 1))
	p.submitJob(other, "a")
	ch := p.pulling(p.ctx, s)
	s.SetPlugins([]core.LoadedPlugin{{Name: "judge", Version: "1", Digest: "j1", Mode: core.ModeSidecar}})
	got := <-ch
	p.must(got.err, "pull")
	p.check(got.items[0].Plugin == "judge", "pulled %+v", got.items)
	p.submitJob(workSpec, "b")
	p.pulling(p.ctx, s)
}

func checkContent(p *workProbe) {
	big := bytes.Repeat([]byte("x"), 3<<20)
	j := p.submitJob(workSpec, string(big), "small")
	s, link := p.attach(workRef(1, 1)), p.link(1)
	items := p.pull(s, 2)
	p.check(items[0].Content == core.SumContent(big) && len(items[0].Payload) == 0, "the large item carries %d bytes and content %s", len(items[0].Payload), items[0].Content)
	got, err := link.Download(p.ctx, items[0].Content, core.MaxCallPayload)
	p.must(err, "download")
	p.check(bytes.Equal(got, big), "downloaded %d other bytes", len(got))
	_, err = link.Download(p.ctx, items[0].Content, 1<<20)
	p.code(err, core.CodeTooLarge, "a download beyond its limit")
	_, err = link.Download(p.ctx, core.SumContent([]byte("nowhere")), 1<<20)
	p.code(err, core.CodeNotFound, "a download of what is not there")
	result := append(append([]byte(`"`), big...), '"')
	id, err := link.Upload(p.ctx, result)
	p.must(err, "upload")
	p.check(id == core.SumContent(result), "uploaded as %s", id)
	_, err = link.Upload(p.ctx, make([]byte, core.MaxCallPayload+1))
	p.code(err, core.CodeTooLarge, "an upload that is too large")
	p.accept(s, core.WorkResult{Lease: items[0].Lease, Content: id}, workAnswers(items[1])[0])
	rs := p.results(j.ID, 0, true)
	p.check(len(rs) == 2 && bytes.Equal(rs[0].Result, result) && string(rs[1].Result) == `"small"`, "%d results, the first of %d bytes", len(rs), len(rs[0].Result))
}

func checkContentMissing(p *workProbe) {
	j := p.submitJob(workSpec, "a")
	s := p.attach(workRef(1, 1))
	it := p.pull(s, 1)[0]
	errs, err := s.Submit(p.ctx, []core.WorkResult{{Lease: it.Lease, Content: core.SumContent([]byte("nowhere"))}})
	p.must(err, "submit")
	p.code(errs[0], core.CodeFailedPrecondition, "a result without its content")
	p.accept(s, workAnswers(it)...)
	p.check(p.results(j.ID, 0, true)[0].Status == core.ResultOK, "the item is not finished")
}

func checkManyResults(p *workProbe) {
	const n = 24
	payloads := make([]string, n)
	for i := range payloads {
		payloads[i] = fmt.Sprint(i)
	}
	j := p.submitJob(workSpec, payloads...)
	s := p.attach(workRef(1, 1))
	items := p.pull(s, n)
	results := workAnswers(items...)
	for i := range results {
		results[i].Result = append(append([]byte(`"`), bytes.Repeat([]byte{'a' + byte(i%26)}, 100<<10)...), '"')
	}
	results = append(results, results[3])
	errs, err := s.Submit(p.ctx, results)
	p.must(err, "submit")
	p.check(len(errs) == n+1, "%d outcomes for %d results", len(errs), n+1)
	for _, err := range errs[:n] {
		p.must(err, "a result")
	}
	p.code(errs[n], core.CodeLeaseLost, "the last one, which is a repetition")
	rs := p.results(j.ID, 0, true)
	p.check(len(rs) == n, "%d results", len(rs))
	for i, r := range rs {
		p.check(r.Index == int64(i) && len(r.Result) == 100<<10+2, "result %d is of item %d and has %d bytes", i, r.Index, len(r.Result))
	}
}

func checkWorkRestart(p *workProbe) {
	j := p.submitJob(workSpec, "a", "b", "c")
	s := p.attach(workRef(1, 1))
	items := p.pull(s, 2)
	p.accept(s, workAnswers(items[0])...)
	p.must(p.f.Restart(), "restart")
	s = p.attach(workRef(1, 1), items[1].Lease)
	missed, lost := s.Resumed()
	p.check(len(missed) == 0 && len(lost) == 0, "missed %+v, lost %+v", missed, lost)
	p.accept(s, workAnswers(items[1])...)
	p.accept(s, workAnswers(p.pull(s, 1)...)...)
	got := p.job(j.ID)
	p.check(got.State == core.JobFinished && got.Counts.OK == 3 && len(p.results(j.ID, 0, true)) == 3, "the job is %+v", got)
}
