package coordinator

import (
	"io"
	"testing"
	"testing/synctest"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// jobItems yields n items.
func jobItems(n int) func() (core.JobItem, error) {
	i := 0
	return func() (core.JobItem, error) {
		if i == n {
			return core.JobItem{}, io.EOF
		}
		i++
		return core.JobItem{ID: string(rune('a' + i)), Payload: []byte("{}")}, nil
	}
}

// TestWorkOfALostWorkerIsReturned runs a job of which one worker dies with items in
// hand: the event tells how many, another worker finishes them, and what the dead
// one still hands in is refused.
func TestWorkOfALostWorkerIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objects, err := cloudlocal.OpenObjects(t.Context(), cloudlocal.ObjectsConfig{Root: t.TempDir(), Logger: testLog(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := objects.Close(); err != nil {
				t.Error(err)
			}
		})
		c := start(t, newStore(), func(cfg *Config, _ *Coordinator) {
			cfg.Objects, cfg.Work = objects, Jobs(JobsConfig{})
		})
		plugins := []core.LoadedPlugin{{Name: "p", Version: "1", Digest: "ab", Mode: "so"}}
		dead, alive := c.join(t, 1), c.join(t, 2)
		stop := alive.keepBeating(t)
		defer stop()
		job, err := c.work.Submit(t.Context(), core.JobSpec{Plugin: "p", Method: "m"}, jobItems(4))
		if err != nil {
			t.Fatal(err)
		}
		lost, err := c.Attach(t.Context(), dead.ref, plugins, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := lost.Pull(t.Context(), core.PullBudget{Slots: 4})
		if err != nil || len(got) == 0 {
			t.Fatalf("%d items, %v", len(got), err)
		}
		c.eventually(t, func() bool { return c.workers[dead.id].liveness == core.LivenessFailed })
		_, err = lost.Submit(t.Context(), []core.WorkResult{{Lease: got[0].Lease, Result: []byte("1")}})
		wantCode(t, err, core.CodeFenced)

		session, err := c.Attach(t.Context(), alive.ref, plugins, nil)
		if err != nil {
			t.Fatal(err)
		}
		for done := 0; done < 4; {
			items, err := session.Pull(t.Context(), core.PullBudget{Slots: 4})
			if err != nil {
				t.Fatal(err)
			}
			results := make([]core.WorkResult, len(items))
			for i, it := range items {
				results[i] = core.WorkResult{Lease: it.Lease, Result: []byte("1")}
			}
			errs, err := session.Submit(t.Context(), results)
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range errs {
				if err != nil {
					t.Error(err)
				}
			}
			done += len(items)
		}
		c.eventually(t, func() bool { return len(c.rec.of(core.TopicJobFinished)) == 1 })
		end, err := c.work.Job(t.Context(), job.ID)
		if err != nil || end.Counts.OK != 4 || end.Counts.Losses != int64(len(got)) {
			t.Errorf("%+v, %v", end, err)
		}
		failed := c.rec.of(core.TopicWorkerFailed)
		if len(failed) != 1 || failed[0].Attrs["requeued"] != int64(len(got)) {
			t.Errorf("%d items were lost: %+v", len(got), failed)
		}
		if err := session.Close(); err != nil {
			t.Error(err)
		}
		if err := lost.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestOthersCommitsAreFencedToo: the rows of jobs are as safe as those of workers.
func TestOthersCommitsAreFencedToo(t *testing.T) {
	store := newStore()
	older := start(t, store)
	key := core.NewKey("test", "row")
	if _, err := core.PutBytes(t.Context(), older.Storage(), key, []byte("1")); err != nil {
		t.Fatal(err)
	}
	start(t, store)
	_, err := core.PutBytes(t.Context(), older.Storage(), key, []byte("2"))
	wantCode(t, err, core.CodeFenced)
	if e, err := core.Get(t.Context(), store, key); err != nil || string(e.Value) != "1" {
		t.Errorf("%q, %v", e.Value, err)
	}
}
