package jobs

import (
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestALostWorkerCostsLossesNotAttempts(t *testing.T) {
	b := newBench(t)
	j := b.submit(spec, "a", "b")
	dead := b.attach(ref(1, 1))
	held := b.pull(dead, 2)
	if n := b.book.Holding(ref(1, 1)); n != 2 {
		t.Errorf("the worker holds %d", n)
	}
	if n, err := b.book.ReleaseWorker(t.Context(), ref(1, 1), true, "worker failed"); err != nil || n != 2 {
		t.Fatalf("released %d, %v", n, err)
	}
	if errs, err := dead.Submit(t.Context(), answer(held...)); core.CodeOf(err) != core.CodeFenced {
		t.Errorf("a late result is answered %v, %v, want fenced", errs, err)
	}
	s := b.attach(ref(2, 1))
	items := b.pull(s, 2)
	if items[0].Attempt != 1 {
		t.Errorf("a loss counted as an attempt: %+v", items[0])
	}
	b.accept(s, answer(items...))
	if got := b.job(j.ID); got.Counts.OK != 2 || got.Counts.Losses != 2 || got.Counts.Leased != 0 {
		t.Errorf("counts %+v", got.Counts)
	}
	if n := b.topics(); n[core.TopicWorkRequeued] != 2 {
		t.Errorf("events %v", n)
	}
}

func TestAnItemWhoseWorkersDieIsDead(t *testing.T) {
	b := newBench(t)
	s := spec
	s.MaxLosses = 2
	j := b.submit(s, "poison")
	for epoch := uint64(1); epoch <= 2; epoch++ {
		b.pull(b.attach(ref(1, epoch)), 1)
		if _, err := b.book.ReleaseWorker(t.Context(), ref(1, epoch), true, "killed"); err != nil {
			t.Fatal(err)
		}
	}
	rs := b.results(j.ID, true)
	if len(rs) != 1 || rs[0].Status != core.ResultDead || rs[0].Error == nil || rs[0].Error.Code != core.CodePreempted {
		t.Fatalf("results %+v", rs)
	}
	if got := b.job(j.ID); got.State != core.JobFinished || got.Counts.Dead != 1 {
		t.Errorf("job %+v", got)
	}
	if n, err := b.book.RequeueDead(t.Context(), j.ID); err != nil || n != 1 {
		t.Fatalf("requeued %d, %v", n, err)
	}
	w := b.attach(ref(1, 3))
	b.accept(w, answer(b.pull(w, 1)...))
	if rs := b.results(j.ID, true); len(rs) != 1 || rs[0].Status != core.ResultOK {
		t.Errorf("after the requeue: %+v", rs)
	}
	if got := b.job(j.ID); got.State != core.JobFinished || got.Counts.OK != 1 || got.Counts.Dead != 0 {
		t.Errorf("job %+v", got)
	}
}

func TestFailuresAreRetriedOrFinal(t *testing.T) {
	b := newBench(t)
	s := spec
	s.MaxAttempts = 2
	j := b.submit(s, "final", "again")
	w := b.attach(ref(1, 1))
	items := b.pull(w, 2)
	final := core.Errorf("", core.CodePluginError, "no answer in the completion")
	again := core.Errorf("", core.CodePluginCrashed, "exit status 139")
	b.accept(w, []core.WorkResult{{Lease: items[0].Lease, Err: final}, {Lease: items[1].Lease, Err: again}})
	second := b.pull(w, 1)
	if second[0].Attempt != 2 || second[0].ID != "id1" {
		t.Fatalf("tried again: %+v", second[0])
	}
	b.accept(w, []core.WorkResult{{Lease: second[0].Lease, Err: again}})
	rs := b.results(j.ID, true)
	if rs[0].Status != core.ResultError || rs[0].Error.Code != core.CodePluginError || rs[0].Attempts != 1 {
		t.Errorf("a final failure: %+v", rs[0])
	}
	if rs[1].Status != core.ResultDead || rs[1].Error.Code != core.CodePluginCrashed || rs[1].Attempts != 2 {
		t.Errorf("attempts used up: %+v", rs[1])
	}
}

// TestTheQueueOfAFinishedJobGoes follows what the queue keeps of jobs that have ended:
// nothing, unless dead items wait for an operator.
func TestTheQueueOfAFinishedJobGoes(t *testing.T) {
	b := newBench(t)
	left := func(want ...core.JobID) {
		t.Helper()
		names, err := b.queue.Queues(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(names) != len(want) || len(want) > 0 && names[0] != queueOf(want[0]) {
			t.Errorf("queues %v are left, want those of %v", names, want)
		}
	}
	s := b.attach(ref(1, 1))
	good := b.submit(spec, "a", "b")
	b.accept(s, answer(b.pull(s, 2)...))
	b.results(good.ID, true)
	left()

	once := spec
	once.MaxAttempts = 1
	bad := b.submit(once, "a")
	fail := func() {
		t.Helper()
		b.accept(s, []core.WorkResult{{Lease: b.pull(s, 1)[0].Lease, Err: core.Errorf("", core.CodeTransient, "no")}})
		b.results(bad.ID, true)
	}
	fail()
	left(bad.ID)
	b.restart()
	left(bad.ID)
	s = b.attach(ref(1, 1))
	if n, err := b.book.RequeueDead(t.Context(), bad.ID); err != nil || n != 1 {
		t.Fatalf("requeued %d, %v", n, err)
	}
	fail()
	if n, err := b.book.DropDead(t.Context(), bad.ID); err != nil || n != 1 {
		t.Fatalf("dropped %d, %v", n, err)
	}
	left()
	if rs := b.results(bad.ID, true); len(rs) != 1 || rs[0].Status != core.ResultDead {
		t.Errorf("the dropped item's result is %+v", rs)
	}

	gone := b.submit(spec, "a", "b", "c")
	if err := b.book.CancelJob(t.Context(), gone.ID, ""); err != nil {
		t.Fatal(err)
	}
	left()
	for id, want := range map[core.JobID]int{good.ID: 2, bad.ID: 1, gone.ID: 3} {
		if rs := b.results(id, false); len(rs) != want {
			t.Errorf("%d results of job %s, want %d", len(rs), id, want)
		}
	}
}
