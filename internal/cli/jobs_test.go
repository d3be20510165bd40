package cli

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// asks runs a command that must succeed and decodes its JSON.
func (s *site) asks(v any, args ...string) {
	s.t.Helper()
	stdout, stderr, code := s.rollout(append(args, "--json")...)
	if err := json.Unmarshal([]byte(stdout), v); err != nil || code != ExitOK {
		s.t.Fatalf("%v: status %d, %v: %s%s", args, code, err, stdout, stderr)
	}
}

// says runs a command and checks its status and what it prints.
func (s *site) says(code int, want string, args ...string) {
	s.t.Helper()
	stdout, stderr, got := s.rollout(args...)
	if got != code || !strings.Contains(stdout+stderr, want) {
		s.t.Errorf("%v: status %d, want %d with %q:\n%s%s", args, got, code, want, stdout, stderr)
	}
}

// item is what queue peek and dead list print for programs.
type item struct {
	Item     uint64          `json:"item"`
	ID       string          `json:"id"`
	State    string          `json:"state"`
	Attempts int             `json:"attempts"`
	Input    json.RawMessage `json:"input"`
	History  []struct {
		Reason string `json:"reason"`
	} `json:"history"`
}

func TestJobsAndTheirQueuesAreShown(t *testing.T) {
	s := newSite(t)
	s.says(ExitOK, "no job has been submitted yet", "jobs")
	gate := make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	defer release()
	begun := make(chan struct{}, 100)
	s.fakeWorker("w1", func(ctx context.Context, it core.WorkItem) ([]byte, error) {
		begun <- struct{}{}
		select {
		case <-gate:
		case <-ctx.Done():
		}
		return []byte("1"), ctx.Err()
	})
	var job core.Job
	in := s.input(numbered(40)...)
	s.asks(&job, "submit", "--plugin", "fake", "--method", "m", "--input", in)
	id := job.ID.String()
	<-begun

	var jobs []core.Job
	if s.asks(&jobs, "jobs"); len(jobs) != 1 || jobs[0].ID != job.ID || jobs[0].Counts.Items != 40 {
		t.Errorf("jobs: %+v", jobs)
	}
	if s.asks(&job, "job", "show", id); job.State != core.JobRunning || job.Counts.Done() != 0 || job.Spec.Source != in || job.Workers != 1 {
		t.Errorf("job show: %+v", job)
	}
	var st struct {
		JobID         string `json:"job_id"`
		Ready, Leased int
		Delayed, Dead int
		OldestMS      int64 `json:"oldest_ms"`
	}
	if s.asks(&st, "queue", "stats", id); st.JobID != id || st.Ready+st.Leased != 40 || st.Leased == 0 || st.Dead != 0 {
		t.Errorf("queue stats: %+v", st)
	}
	var items []item
	if s.asks(&items, "queue", "peek", id, "--limit", "5"); len(items) != 5 || items[0].ID != "item 0" || string(items[0].Input) != `{"id":"item 0"}` {
		t.Errorf("queue peek: %+v", items)
	}
	for _, c := range []struct{ want, command string }{
		{"running", "jobs"}, {"fake", "jobs"}, {id, "jobs"},
		{"40: 0 ok, 0 error, 0 dead, 40 left", "job show " + id}, {in, "job show " + id}, {"on 1 worker", "job show " + id},
		{"leased", "queue stats " + id}, {"item 0", "queue peek " + id}, {"no item of the job is dead", "dead list " + id},
	} {
		s.says(ExitOK, c.want, strings.Fields(c.command)...)
	}

	release()
	s.says(ExitOK, "", "job", "results", id, "--wait", "--output", s.path("out"))
	s.says(ExitOK, "no item of the job is unfinished", "queue", "peek", id)
	s.says(ExitOK, "took", "job", "show", id)
	s.says(ExitOK, "cancelled", "job", "cancel", id) // it is over: nothing changes
	if s.asks(&job, "job", "show", id); job.State != core.JobFinished || job.Counts.OK != 40 {
		t.Errorf("at the end: %+v", job)
	}
	var none []item
	if s.asks(&none, "dead", "list", id); none == nil {
		t.Error("an empty list for programs is null")
	}

	other := core.NewJobID().String()
	for _, command := range []string{"job show", "job results", "job results --wait", "job cancel", "queue stats", "queue peek", "dead list", "dead requeue"} {
		s.says(ExitFailure, other, append(strings.Fields(command), other)...)
		s.says(ExitUsage, "`rollout jobs` lists the ids", append(strings.Fields(command), "nonsense")...)
	}
}

func TestPurgingAQueueEndsItsJob(t *testing.T) {
	s := newSite(t)
	stdout, _, _ := s.rollout("submit", "--plugin", "fake", "--method", "m", "--input", s.input(numbered(3)...))
	id := strings.TrimSpace(stdout)
	s.says(ExitOK, "purged", "queue", "purge", id)
	s.says(ExitOK, "purged by an operator", "job", "show", id)
	s.says(ExitFailure, "3 of 3 items are not ok", "job", "results", id, "--wait")
}

func TestDeadItemsAreLookedAfter(t *testing.T) {
	s := newSite(t)
	var mu sync.Mutex // guards broken
	broken := true
	s.fakeWorker("w1", func(_ context.Context, it core.WorkItem) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		if broken && it.Index > 0 {
			return nil, core.Errorf("", core.CodePluginCrashed, "the model server is gone")
		}
		return []byte("1"), nil
	})
	args := []string{"submit", "--plugin", "fake", "--method", "m", "--input", s.input(numbered(4)...), "--wait", "--max-attempts", "1", "--output", s.path("out")}
	s.says(ExitFailure, "1 ok, 0 error, 3 dead", args...)
	for i, r := range results(t, readFile(t, s.path("out"))) {
		if i > 0 && (r.Status != core.ResultDead || r.Error == nil || !strings.Contains(r.Error.Message, "the model server is gone")) {
			t.Errorf("result %+v", r)
		}
	}
	var jobs []core.Job
	s.asks(&jobs, "jobs")
	id := jobs[0].ID.String()
	var dead []item
	if s.asks(&dead, "dead", "list", id); len(dead) != 3 || dead[0].ID != "item 1" || len(dead[0].History) == 0 || !strings.Contains(dead[0].History[0].Reason, "the model server") {
		t.Fatalf("dead list: %+v", dead)
	}
	first, second := itemText(dead[0]), itemText(dead[1])
	s.says(ExitOK, "the model server is gone", "dead", "list", id)
	s.says(ExitOK, `{"id":"item 1"}`, "dead", "show", id, first)
	s.says(ExitFailure, "is not dead", "dead", "show", id, "999")
	s.says(ExitUsage, "is not an item's number", "dead", "show", id, "first")

	var n struct{ Requeued, Dropped int }
	if s.asks(&n, "dead", "drop", id, second); n.Dropped != 1 {
		t.Errorf("dead drop: %+v", n)
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	if s.asks(&n, "dead", "requeue", id); n.Requeued != 2 {
		t.Errorf("dead requeue: %+v", n)
	}
	s.says(ExitFailure, "3 ok, 0 error, 1 dead", "job", "results", id, "--wait", "--output", s.path("out"))
	rs := results(t, readFile(t, s.path("out")))
	if len(rs) != 4 || rs[2].Status != core.ResultDead {
		t.Errorf("the dropped item keeps its result: %+v", rs)
	}
}

func itemText(it item) string { b, _ := json.Marshal(it.Item); return string(b) }
