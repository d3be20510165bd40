package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestABrokenSubmissionIsCancelled(t *testing.T) {
	b := newBench(t)
	broken := errors.New("the line went dead")
	n := 0
	_, err := b.book.Submit(t.Context(), spec, func() (core.JobItem, error) {
		if n++; n > 700 {
			return core.JobItem{}, broken
		}
		return core.JobItem{ID: fmt.Sprint(n), Payload: []byte("x")}, nil
	})
	if !errors.Is(err, broken) {
		t.Fatalf("submit answered %v", err)
	}
	jobs, err := b.book.Jobs(t.Context(), 0)
	if err != nil || len(jobs) != 1 || jobs[0].State != core.JobCanceled {
		t.Errorf("jobs %+v, %v", jobs, err)
	}
}

func TestBadLinesAndNoItems(t *testing.T) {
	b := newBench(t)
	bad := core.JobItem{ID: "x", Err: &core.ItemError{Code: core.CodeInvalidArgument, Message: "line 1 is not JSON"}}
	sent := false
	j, err := b.book.Submit(t.Context(), spec, func() (core.JobItem, error) {
		if sent {
			return core.JobItem{}, io.EOF
		}
		sent = true
		return bad, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	rs := b.results(j.ID, true)
	if len(rs) != 1 || rs[0].Status != core.ResultError || rs[0].Error.Message != bad.Err.Message {
		t.Errorf("results %+v", rs)
	}
	empty := b.submit(spec)
	if got := b.job(empty.ID); got.State != core.JobFinished {
		t.Errorf("an empty job is %+v", got)
	}
}

func TestLargePayloadsAndResultsTravelAsContent(t *testing.T) {
	b := newBench(t)
	big := make([]byte, core.MaxInlinePayload+1)
	for i := range big {
		big[i] = 'x'
	}
	j := b.submit(spec, string(big))
	w := b.attach(ref(1, 1))
	it := b.pull(w, 1)[0]
	if it.Content != core.SumContent(big) || len(it.Payload) != 0 {
		t.Fatalf("the item carries %d bytes and content %s", len(it.Payload), it.Content)
	}
	result := append(append([]byte(`"`), big...), '"')
	errs, err := w.Submit(t.Context(), []core.WorkResult{{Lease: it.Lease, Result: result}})
	if err != nil || !core.IsCode(errs[0], core.CodeTooLarge) {
		t.Errorf("a large result inside a message: %v, %v", errs, err)
	}
	errs, err = w.Submit(t.Context(), []core.WorkResult{{Lease: it.Lease, Content: core.SumContent(result)}})
	if err != nil || !core.IsCode(errs[0], core.CodeFailedPrecondition) {
		t.Errorf("a result that was not uploaded: %v, %v", errs, err)
	}
	info, err := core.PutBlob(t.Context(), b.objs, result, "")
	if err != nil {
		t.Fatal(err)
	}
	b.accept(w, []core.WorkResult{{Lease: it.Lease, Content: info.ID}})
	if rs := b.results(j.ID, true); string(rs[0].Result) != string(result) {
		t.Errorf("the result has %d bytes, want %d", len(rs[0].Result), len(result))
	}
}

func TestAJobWithoutADigestIsPinned(t *testing.T) {
	b := newBench(t)
	s := spec
	s.Digest = ""
	j := b.submit(s, "a", "b")
	w := b.attach(ref(1, 1))
	b.accept(w, answer(b.pull(w, 1)...))
	if got := b.job(j.ID).Spec.Digest; got != "d1" {
		t.Errorf("pinned to %q", got)
	}
	other, err := b.book.Attach(t.Context(), ref(2, 1), []core.LoadedPlugin{{Name: "reward", Digest: "d2"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if items, err := other.Pull(short, core.PullBudget{Slots: 1}); err == nil {
		t.Errorf("a worker with another digest got %+v", items)
	}
	b.restart()
	if got := b.job(j.ID).Spec.Digest; got != "d1" {
		t.Errorf("after a restart pinned to %q", got)
	}
}

func TestResumeComputesOnlyWhatIsNew(t *testing.T) {
	b := newBench(t)
	w := b.attach(ref(1, 1))
	j := b.submit(spec, "a", "b")
	b.accept(w, answer(b.pull(w, 2)...))
	b.results(j.ID, true)
	s := spec
	s.Resume = true
	next := b.submit(s, "b", "new", "a")
	items := b.pull(w, 1)
	if string(items[0].Payload) != "new" {
		t.Fatalf("computed again: %q", items[0].Payload)
	}
	b.accept(w, answer(items...))
	rs := b.results(next.ID, true)
	if len(rs) != 3 || string(rs[0].Result) != `"b"` || rs[0].ID != "id0" || string(rs[2].Result) != `"a"` {
		t.Errorf("results %+v", rs)
	}
	if c := b.job(next.ID).Counts; c.OK != 3 || c.Resumed != 2 {
		t.Errorf("counts %+v", c)
	}
	other := s
	other.Digest = "d2"
	if c := b.submit(other, "a").Counts; c.Resumed != 0 {
		t.Errorf("another digest resumed: %+v", c)
	}
}
