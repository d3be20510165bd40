package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// faulty is a store whose n-th commit fails, and those after it until the step that
// met it has ended.
type faulty struct {
	mu      sync.Mutex // guards the fields below
	fail    int
	pause   time.Duration // before a step is made again
	commits int
	struck  bool
	off     bool
}

func (f *faulty) hook() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.off {
		return nil
	}
	if f.commits++; f.commits == f.fail || f.struck {
		f.struck = true
		return core.Errorf("disk", core.CodeExhausted, "no space left on device")
	}
	return nil
}

func (f *faulty) set(off bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.off, f.struck = off, false
}

// try makes a step, and makes it again when it failed for want of room.
func (f *faulty) try(t *testing.T, what string, step func() error) {
	t.Helper()
	f.set(false)
	err := step()
	f.set(true)
	if core.IsCode(err, core.CodeExhausted) {
		elapse(f.pause)
		err = step()
	}
	if err != nil {
		t.Fatalf("commit %d fails: %s: %v", f.fail, what, err)
	}
}

// elapse lets the time of a test's bubble go by.
func elapse(d time.Duration) { <-time.After(d) }

// runJob takes a job through all that can happen to its items and returns what it
// came to.
func runJob(t *testing.T, fail int, pause time.Duration) (commits int, end string) {
	f := &faulty{fail: fail, pause: pause, off: true}
	b := &bench{t: t, store: memstore.New(memstore.Options{CommitHook: f.hook})}
	var err error
	b.objs, err = cloudlocal.OpenObjects(t.Context(), cloudlocal.ObjectsConfig{Root: filepath.Join(t.TempDir(), "objects"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b.open()
	b.book.log = slog.New(slog.DiscardHandler)
	ctx := context.Background()
	s := spec
	s.MaxAttempts, s.MaxLosses = 1, 1
	var id core.JobID
	f.try(t, "submit", func() error {
		s.ID = core.NewJobID()
		j, err := b.book.Submit(ctx, s, lines("a", "b", "c", "d"))
		id = j.ID
		return err
	})
	var items []core.WorkItem
	pull := func(w core.WorkSession, n int) {
		for len(items) < n {
			f.try(t, "pull", func() error {
				got, err := w.Pull(ctx, core.PullBudget{Slots: 1})
				items = append(items, got...)
				return err
			})
		}
	}
	// A result that was stored before its batch failed is answered lease_lost when
	// it comes again.
	submit := func(w core.WorkSession, rs ...core.WorkResult) {
		f.try(t, "submit results", func() error { _, err := w.Submit(ctx, rs); return err })
	}
	first := b.attach(ref(1, 1))
	pull(first, 4)
	submit(first, append(answer(items[0]), core.WorkResult{Lease: items[1].Lease, Err: core.Errorf("", core.CodePluginCrashed, "exit status 3")})...)
	f.try(t, "release", func() error { _, err := b.book.ReleaseWorker(ctx, ref(1, 1), true, "killed"); return err })
	elapse(time.Minute)
	if j := b.job(id); j.State != core.JobFinished || j.Counts.OK != 1 || j.Counts.Dead != 3 {
		t.Fatalf("commit %d fails: without its worker the job is %+v", fail, j)
	}
	f.try(t, "requeue", func() error { _, err := b.book.RequeueDead(ctx, id); return err })
	second := b.attach(ref(2, 1))
	items = nil
	pull(second, 1)
	submit(second, answer(items[0])...)
	f.try(t, "cancel", func() error { return b.book.CancelJob(ctx, id, "enough") })
	elapse(time.Minute)
	end = b.ending(id)
	b.restart()
	if again := b.ending(id); again != end {
		t.Errorf("commit %d fails: %s, and after a restart %s", fail, end, again)
	}
	all, err := b.book.Jobs(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, j := range all {
		if j.State != core.JobCanceled {
			t.Errorf("commit %d fails: a job is left as %+v", fail, j)
		}
	}
	b.close()
	if err := errors.Join(b.objs.Close(), b.store.Close()); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.commits, end
}

// ending tells what became of a job.
func (b *bench) ending(id core.JobID) string {
	j := b.job(id)
	out := fmt.Sprintf("%s, %d items, %d ok, %d dead, %d leased", j.State, j.Counts.Items, j.Counts.OK, j.Counts.Dead, j.Counts.Leased)
	for _, r := range b.results(id, false) {
		out += fmt.Sprintf("; %s %s", r.ID, r.Status)
	}
	return out
}

// TestR6JobsEveryCommitFails lets each commit of a job's life fail in turn, with a
// disk that stays full until the call has returned: every line has one result in
// the end, the counts are right, and no job is left half done. The call is made
// again before what the book itself tries again, and behind it.
func TestR6JobsEveryCommitFails(t *testing.T) {
	for _, pause := range []time.Duration{time.Millisecond, time.Second} {
		run := func(fail int) (commits int, end string) {
			synctest.Test(t, func(t *testing.T) { commits, end = runJob(t, fail, pause) })
			return commits, end
		}
		total, want := run(0)
		for fail := 1; fail <= total && !t.Failed(); fail++ {
			if _, end := run(fail); end != want {
				t.Errorf("with commit %d failing the job ends as\n%s, want\n%s", fail, end, want)
			}
		}
		t.Logf("%d commits; %s", total, want)
	}
}
