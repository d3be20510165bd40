package jobs

import (
	"fmt"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestAJobFromSubmitToResults(t *testing.T) {
	b := newBench(t)
	j := b.submit(spec, "a", "b", "c")
	if j.State != core.JobRunning || j.Counts.Items != 3 {
		t.Fatalf("submitted: %+v", j)
	}
	s := b.attach(ref(1, 1))
	items := b.pull(s, 3)
	if items[1].ID != "id1" || items[1].Index != 1 || items[1].Digest != "d1" || string(items[1].Payload) != "b" {
		t.Errorf("the second item is %+v", items[1])
	}
	b.accept(s, answer(items[2], items[0], items[1]))
	rs := b.results(j.ID, true)
	if len(rs) != 3 {
		t.Fatalf("%d results", len(rs))
	}
	for i, r := range rs {
		want := fmt.Sprintf(`"%c"`, 'a'+i)
		if r.Index != int64(i) || r.Status != core.ResultOK || string(r.Result) != want || r.Attempts != 1 || r.WorkerID != ref(1, 1).ID {
			t.Errorf("result %d is %+v", i, r)
		}
	}
	if got := b.job(j.ID); got.State != core.JobFinished || got.Counts.OK != 3 || got.FinishedAt.IsZero() {
		t.Errorf("finished: %+v", got)
	}
	if n := b.topics(); n[core.TopicJobSubmitted] != 1 || n[core.TopicJobFinished] != 1 {
		t.Errorf("events: %v", n)
	}
}

func TestARestartLosesAndRepeatsNothing(t *testing.T) {
	b := newBench(t)
	j := b.submit(spec, "a", "b", "c", "d")
	s := b.attach(ref(1, 1))
	items := b.pull(s, 3)
	b.accept(s, answer(items[0]))
	b.restart()
	s = b.attach(ref(1, 1), items[1].Lease, core.Lease{Queue: items[0].Lease.Queue, Item: 99, Owner: ref(1, 1).ID, Epoch: 1, Token: 7})
	missed, lost := s.Resumed()
	if len(missed) != 1 || missed[0].Lease != items[2].Lease || len(lost) != 1 || lost[0].Item != 99 {
		t.Fatalf("missed %+v, lost %+v", missed, lost)
	}
	b.accept(s, answer(items[1], missed[0]))
	b.accept(s, answer(b.pull(s, 1)...))
	if got := b.job(j.ID); got.State != core.JobFinished || got.Counts.OK != 4 {
		t.Errorf("after the restart: %+v", got)
	}
	b.restart()
	if got := b.job(j.ID); got.State != core.JobFinished || len(b.results(j.ID, true)) != 4 {
		t.Errorf("a finished job after a restart: %+v", got)
	}
}

func TestCancelGivesEveryLineOneResult(t *testing.T) {
	b := newBench(t)
	w := b.attach(ref(1, 1))
	j := b.submit(spec, "a", "b", "c")
	items := b.pull(w, 2)
	b.accept(w, answer(items[0]))
	if err := b.book.CancelJob(t.Context(), j.ID, ""); err != nil {
		t.Fatal(err)
	}
	errs, err := w.Submit(t.Context(), answer(items[1]))
	if err != nil || !core.IsCode(errs[0], core.CodeLeaseLost) {
		t.Errorf("a result after the cancel: %v, %v", errs, err)
	}
	rs := b.results(j.ID, true)
	if len(rs) != 3 || rs[0].Status != core.ResultOK || rs[1].Status != core.ResultDead || rs[2].Error.Code != core.CodeCanceled {
		t.Errorf("results %+v", rs)
	}
	if got := b.job(j.ID); got.State != core.JobCanceled {
		t.Errorf("job %+v", got)
	}
	if err := b.book.CancelJob(t.Context(), j.ID, ""); err != nil {
		t.Errorf("a second cancel: %v", err)
	}
}

func TestADeadlineEndsTheJob(t *testing.T) {
	b := newBench(t)
	s := spec
	s.Deadline = time.Now().Add(50 * time.Millisecond)
	j := b.submit(s, "a", "b")
	rs := b.results(j.ID, true)
	if len(rs) != 2 || rs[0].Status != core.ResultDead || rs[0].Error.Code != core.CodeDeadlineExceeded {
		t.Errorf("results %+v", rs)
	}
	if got := b.job(j.ID); got.State != core.JobFinished || got.Counts.Dead != 2 {
		t.Errorf("job %+v", got)
	}
}
