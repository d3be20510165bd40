package jobs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// bench is a book on an in-memory store, which can be closed and opened again as a
// restart of the coordinator does.
type bench struct {
	t     *testing.T
	store *memstore.Store
	objs  *cloudlocal.Objects
	queue *cloudlocal.Queue
	book  *Book
	hold  atomic.Pointer[func()] // called before each commit, when set

	mu     sync.Mutex
	events []core.Event
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{t: t}
	b.store = memstore.New(memstore.Options{CommitHook: func() error {
		if hold := b.hold.Load(); hold != nil {
			(*hold)()
		}
		return nil
	}})
	var err error
	b.objs, err = cloudlocal.OpenObjects(t.Context(), cloudlocal.ObjectsConfig{Root: filepath.Join(t.TempDir(), "objects")})
	if err != nil {
		t.Fatal(err)
	}
	b.open()
	t.Cleanup(func() {
		b.close()
		if err := errors.Join(b.objs.Close(), b.store.Close()); err != nil {
			t.Error(err)
		}
	})
	return b
}

func (b *bench) open() {
	b.t.Helper()
	ctx := context.Background()
	var err error
	b.queue, err = cloudlocal.OpenQueue(ctx, cloudlocal.QueueConfig{Storage: b.store, Objects: b.objs, RetryFloor: time.Millisecond, RetryBase: time.Millisecond, RetryMax: time.Millisecond})
	if err != nil {
		b.t.Fatal(err)
	}
	b.book, err = Open(ctx, Config{Storage: b.store, Queue: b.queue, Objects: b.objs, Record: b.record})
	if err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) close() {
	b.t.Helper()
	if err := errors.Join(b.book.Close(), b.queue.Close()); err != nil {
		b.t.Error(err)
	}
}

func (b *bench) restart() { b.t.Helper(); b.close(); b.open() }

func (b *bench) record(ctx context.Context, writes []core.Write, events ...core.Event) error {
	_, err := core.Update(ctx, b.store, func(tx core.Txn) error {
		for _, w := range writes {
			if w.Delete {
				if err := tx.Delete(w.Key); err != nil {
					return err
				}
			} else if err := tx.Put(w.Key, w.Value); err != nil {
				return err
			}
		}
		return nil
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, events...)
	return err
}

// topics returns how often each topic was recorded.
func (b *bench) topics() map[string]int {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := map[string]int{}
	for _, e := range b.events {
		n[e.Topic]++
	}
	return n
}

func lines(payloads ...string) func() (core.JobItem, error) {
	i := 0
	return func() (core.JobItem, error) {
		if i == len(payloads) {
			return core.JobItem{}, io.EOF
		}
		i++
		return core.JobItem{ID: fmt.Sprint("id", i-1), Payload: []byte(payloads[i-1])}, nil
	}
}

var spec = core.JobSpec{Plugin: "reward", Digest: "d1", Method: "score"}

var plugins = []core.LoadedPlugin{{Name: "reward", Version: "1", Digest: "d1", Mode: core.ModeSidecar}}

func ref(n byte, epoch uint64) core.WorkerRef {
	return core.WorkerRef{ID: core.WorkerID{15: n}, Epoch: epoch}
}

func (b *bench) submit(s core.JobSpec, payloads ...string) core.Job {
	b.t.Helper()
	j, err := b.book.Submit(b.t.Context(), s, lines(payloads...))
	if err != nil {
		b.t.Fatal(err)
	}
	return j
}

func (b *bench) attach(w core.WorkerRef, holding ...core.Lease) core.WorkSession {
	b.t.Helper()
	s, err := b.book.Attach(b.t.Context(), w, plugins, holding)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// pull takes n items, however many pulls that needs.
func (b *bench) pull(s core.WorkSession, n int) []core.WorkItem {
	b.t.Helper()
	var out []core.WorkItem
	for len(out) < n {
		items, err := s.Pull(b.t.Context(), core.PullBudget{Slots: 1})
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(out, items...)
	}
	return out
}

func answer(items ...core.WorkItem) []core.WorkResult {
	out := make([]core.WorkResult, len(items))
	for i, it := range items {
		out[i] = core.WorkResult{Lease: it.Lease, Result: []byte(`"` + string(it.Payload) + `"`)}
	}
	return out
}

func (b *bench) accept(s core.WorkSession, rs []core.WorkResult) {
	b.t.Helper()
	errs, err := s.Submit(b.t.Context(), rs)
	if err := errors.Join(append(errs, err)...); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) results(id core.JobID, wait bool) []core.ItemResult {
	b.t.Helper()
	var out []core.ItemResult
	if err := b.book.Results(b.t.Context(), id, 0, wait, func(r core.ItemResult) error { out = append(out, r); return nil }); err != nil {
		b.t.Fatal(err)
	}
	return out
}

func (b *bench) job(id core.JobID) core.Job {
	b.t.Helper()
	j, err := b.book.Job(b.t.Context(), id)
	if err != nil {
		b.t.Fatal(err)
	}
	return j
}

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

func TestANewerSessionReplacesTheOlder(t *testing.T) {
	b := newBench(t)
	b.submit(spec, "a")
	old := b.attach(ref(1, 1))
	got := make(chan error, 1)
	b.pull(old, 1)
	go func() {
		_, err := old.Pull(context.Background(), core.PullBudget{Slots: 1})
		got <- err
	}()
	b.attach(ref(1, 1))
	if err := <-got; !core.IsCode(err, core.CodeConflict) {
		t.Errorf("the older session ended with %v", err)
	}
	b.attach(ref(1, 2))
	if _, err := b.book.Attach(t.Context(), ref(1, 1), plugins, nil); !core.IsCode(err, core.CodeFenced) {
		t.Errorf("an older epoch attached: %v", err)
	}
}

func TestWhatAnOldSessionIsJustLeasingIsNotLost(t *testing.T) {
	b := newBench(t)
	b.submit(spec, "a")
	old := b.attach(ref(1, 1))
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	hold := func() { once.Do(func() { close(entered); <-release }) }
	b.hold.Store(&hold)
	pulled := make(chan int, 1)
	go func() {
		items, _ := old.Pull(context.Background(), core.PullBudget{Slots: 1})
		pulled <- len(items)
	}()
	<-entered // the lease is on its way to disk
	attached := make(chan core.WorkSession, 1)
	go func() {
		s, err := b.book.Attach(context.Background(), ref(1, 1), plugins, nil)
		if err != nil {
			t.Error(err)
		}
		attached <- s
	}()
	close(release)
	<-pulled // whatever the old stream got, nobody reads it any more
	missed, _ := (<-attached).Resumed()
	if len(missed) != 1 {
		t.Errorf("the new session was told of %d items, the epoch holds 1", len(missed))
	}
}
