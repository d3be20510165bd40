package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestTheProgressLine(t *testing.T) {
	for _, c := range []struct {
		name    string
		counts  core.JobCounts
		since   int64
		elapsed time.Duration
		workers int
		want    string
	}{
		{"nothing is done", core.JobCounts{Items: 200}, 0, 10 * time.Second, 0, "0/200 (0%)  0 workers"},
		{"too early for a rate", core.JobCounts{Items: 200, OK: 10}, 10, 100 * time.Millisecond, 1, "10/200 (5%)  1 worker"},
		{"half", core.JobCounts{Items: 200, OK: 100}, 100, 4 * time.Second, 2, "100/200 (50%)  25/s  4s left  2 workers"},
		{"slow work", core.JobCounts{Items: 10, OK: 1}, 1, 4 * time.Second, 2, "1/10 (10%)  0.2/s  36s left  2 workers"},
		{"what was done before counts for no rate", core.JobCounts{Items: 200, OK: 150}, 50, 5 * time.Second, 2, "150/200 (75%)  10/s  5s left  2 workers"},
		{"failures", core.JobCounts{Items: 200, OK: 90, Error: 6, Dead: 4}, 100, 4 * time.Second, 2, "100/200 (50%)  25/s  4s left  10 failed  2 workers"},
		{"no items", core.JobCounts{}, 0, time.Second, 2, "0/0  2 workers"},
	} {
		if got := progressLine(core.Job{Counts: c.counts, Workers: c.workers}, c.since, c.elapsed); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestTheEndOfAJobIsTold(t *testing.T) {
	began := time.Now()
	job := core.Job{State: core.JobFinished, CreatedAt: began, FinishedAt: began.Add(2 * time.Second), Counts: core.JobCounts{Resumed: 3, Losses: 2}}
	var b bytes.Buffer
	tool := &tool{stderr: &b}
	if err := tool.conclude(job, resultTally{ok: 10}, &output{}); err != nil {
		t.Error(err)
	}
	if got, want := b.String(), "job "+job.ID.String()+" finished: 10 items: 10 ok, 0 error, 0 dead in 2s (5.0/s), 3 taken from earlier jobs, 2 done again after their worker died\n"; got != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	if err := tool.conclude(job, resultTally{ok: 8, failed: 1, dead: 1}, &output{}); exitCode(err) != ExitFailure {
		t.Errorf("with two that are not ok: %v", err)
	}
	job.State = core.JobCanceled
	if err := tool.conclude(job, resultTally{ok: 10}, &output{}); exitCode(err) != ExitFailure {
		t.Errorf("a cancelled job: %v", err)
	}
}
