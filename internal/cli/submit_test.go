package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// results decodes result lines and checks that each stands once, in order.
func results(t *testing.T, text string) (out []core.ItemResult) {
	t.Helper()
	for line := range strings.Lines(text) {
		var r core.ItemResult
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		if r.Index != int64(len(out)) {
			t.Fatalf("line %d has the index %d", len(out), r.Index)
		}
		out = append(out, r)
	}
	return out
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// numbered makes n lines with ids.
func numbered(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf(`{"id":"item %d"}`, i)
	}
	return out
}

func TestSubmitRefusesWrongUsage(t *testing.T) {
	dir := t.TempDir()
	in := dir + "/in.jsonl"
	if err := os.WriteFile(in, []byte("{}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--method", "m", "--input", in}, "--plugin is missing"},
		{[]string{"--plugin", "p", "--input", in}, "--method is missing"},
		{[]string{"--plugin", "p", "--method", "m"}, "--input is missing"},
		{[]string{"--plugin", "p", "--method", "m", "--input", in, "--output", "x"}, "--output needs --wait"},
		{[]string{"--plugin", "p", "--method", "m", "--input", in, "--on-bad-line", "skip"}, "it must be stop or error"},
		{[]string{"--plugin", "p", "--method", "m", "--input", in, "--deadline", "-1s"}, "must not be negative"},
		{[]string{"--plugin", "p", "--method", "m", "--input", dir}, "is a directory"},
		{[]string{"--plugin", "p", "--method", "m", "--input", in, "--wait", "--output", in}, "is the input file"},
		{[]string{"--plugin", "p", "--method", "m", "--input", in, "extra"}, "usage: rollout submit"},
		{[]string{"--plugins", "p"}, "unknown flag"},
	} {
		out, stderr, code := call(Operator, append([]string{"submit"}, c.args...)...)
		if code != ExitUsage || out != "" || !strings.Contains(stderr, c.want) {
			t.Errorf("%v: status %d, %q, lacks %q: %s", c.args, code, out, c.want, stderr)
		}
	}
	if _, stderr, code := call(Operator, "submit", "--plugin", "p", "--method", "m", "--input", dir+"/no"); code != ExitFailure || !strings.Contains(stderr, "no such file") {
		t.Errorf("an input that is not there: status %d, %s", code, stderr)
	}
}

func TestEachLineYieldsOneResultInOrder(t *testing.T) {
	s := newSite(t)
	s.fakeWorker("w1", echo)
	s.fakeWorker("w2", echo)
	in, out := s.input(numbered(200)...), s.path("out.jsonl")
	stdout, stderr, code := s.rollout("submit", "--plugin", "fake", "--method", "m", "--input", in, "--wait", "--output", out)
	if code != ExitOK || stdout != "" || !strings.Contains(stderr, "200 items: 200 ok, 0 error, 0 dead") {
		t.Fatalf("status %d, %q, %s", code, stdout, stderr)
	}
	rs := results(t, readFile(t, out))
	for i, r := range rs {
		if r.ID != fmt.Sprintf("item %d", i) || r.Status != core.ResultOK || r.Attempts != 1 || r.WorkerID.IsZero() || string(r.Result) != numbered(200)[i] {
			t.Fatalf("result %d is %+v", i, r)
		}
	}
	if len(rs) != 200 || !absent(out+".partial") {
		t.Errorf("%d results, the partial file is absent: %v", len(rs), absent(out+".partial"))
	}
}

func TestResultsOnStandardOutput(t *testing.T) {
	s := newSite(t)
	s.fakeWorker("w1", func(_ context.Context, it core.WorkItem) ([]byte, error) { return []byte("no JSON \xff"), nil })
	var out, errs bytes.Buffer
	in := strings.NewReader("{\"id\":1}\n{}\n")
	args := []string{"submit", "--plugin", "fake", "--method", "m", "--input", "-", "--wait", "--addr", s.addr, "--tls-dir", s.tls()}
	if code := Operator(t.Context(), args, in, &out, &errs); code != ExitOK {
		t.Fatalf("status %d, %s", code, errs.String())
	}
	rs := results(t, out.String())
	if len(rs) != 2 || rs[0].ID != "1" || rs[1].ID != made("{}", "1") || string(rs[0].Result) != `{"base64":"bm8gSlNPTiD/"}` {
		t.Errorf("the results are %s", out.String())
	}
}

func TestAJobThatIsNotAllOKEndsWithOne(t *testing.T) {
	s := newSite(t)
	s.fakeWorker("w1", func(_ context.Context, it core.WorkItem) ([]byte, error) {
		if it.Index == 1 {
			return nil, core.Errorf("", core.CodePluginError, "the reference has no answer")
		}
		return []byte("1"), nil
	})
	out := s.path("out.jsonl")
	_, stderr, code := s.rollout("submit", "--plugin", "fake", "--method", "m", "--input", s.input(numbered(3)...), "--wait", "--output", out)
	if code != ExitFailure || !strings.Contains(stderr, "3 items: 2 ok, 1 error, 0 dead") || !strings.Contains(stderr, "1 of 3 items are not ok") {
		t.Errorf("status %d, %s", code, stderr)
	}
	rs := results(t, readFile(t, out)) // it is complete, so it has its name
	if len(rs) != 3 || rs[1].Status != core.ResultError || rs[1].Error == nil || rs[1].Error.Code != core.CodePluginError || !strings.Contains(rs[1].Error.Message, "no answer") {
		t.Errorf("the results are %+v", rs)
	}
}

func TestBadLinesStopTheSubmitOrBecomeErrors(t *testing.T) {
	s := newSite(t)
	s.fakeWorker("w1", echo)
	in, out := s.input(`{"id":1}`, `{"id":`, `{"id":1}`, `{"id":2}`), s.path("out.jsonl")
	args := []string{"submit", "--plugin", "fake", "--method", "m", "--input", in, "--wait", "--output", out}
	_, stderr, code := s.rollout(args...)
	if code != ExitFailure || !strings.Contains(stderr, in+":2: the line is not a JSON object") {
		t.Errorf("stop: status %d, %s", code, stderr)
	}
	if !absent(out) || !absent(out+".partial") {
		t.Error("a submit that was stopped leaves an output")
	}
	var jobs []core.Job
	stdout, _, _ := s.rollout("jobs", "--json")
	if err := json.Unmarshal([]byte(stdout), &jobs); err != nil || len(jobs) > 1 || len(jobs) == 1 && jobs[0].State != core.JobCanceled {
		t.Errorf("what the stopped submit left: %v, %s", err, stdout)
	}
	_, stderr, code = s.rollout(append(args, "--on-bad-line", "error")...)
	if code != ExitFailure || !strings.Contains(stderr, "4 items: 2 ok, 2 error, 0 dead") {
		t.Errorf("error: status %d, %s", code, stderr)
	}
	rs := results(t, readFile(t, out))
	if len(rs) != 4 || rs[1].Error == nil || !strings.HasPrefix(rs[1].Error.Message, in+":2: ") || rs[2].Error == nil || rs[2].Error.Code != core.CodeAlreadyExists || !strings.Contains(rs[2].Error.Message, "stands in line 1") {
		t.Errorf("the results are %+v", rs)
	}
}

func TestAPluginThatNobodyHasIsWaitedFor(t *testing.T) {
	s := newSite(t)
	s.fakeWorker("w1", echo)
	s.coord.await(core.TopicWorkerState, 1)
	stdout, stderr, code := s.rollout("submit", "--plugin", "fkae", "--method", "m", "--input", s.input(numbered(2)...))
	id := strings.TrimSpace(stdout)
	if _, err := core.ParseJobID(id); err != nil || code != ExitOK || !strings.Contains(stderr, `no worker has the plugin "fkae" loaded yet (loaded are: fake)`) {
		t.Fatalf("status %d, %q, %s", code, stdout, stderr)
	}
	out := s.path("out.jsonl")
	if _, stderr, code := s.rollout("job", "results", id, "--output", out); code != ExitFailure || !strings.Contains(stderr, "is running") || !absent(out) || absent(out+".partial") {
		t.Errorf("results of a job that goes on: status %d, %s", code, stderr)
	}
	if stdout, _, code := s.rollout("job", "cancel", id, "--reason", "a typing error"); code != ExitOK || !strings.Contains(stdout, id) {
		t.Errorf("cancel: status %d, %s", code, stdout)
	}
	stdout, stderr, code = s.rollout("job", "results", id, "--wait")
	if code != ExitFailure || !strings.Contains(stderr, "2 of 2 items are not ok") {
		t.Errorf("results: status %d, %s", code, stderr)
	}
	for _, r := range results(t, stdout) {
		if r.Status != core.ResultDead || r.Error == nil || r.Error.Code != core.CodeCanceled {
			t.Errorf("a result of a cancelled job is %+v", r)
		}
	}
}

func TestCtrlCLeavesTheJobRunning(t *testing.T) {
	s := newSite(t)
	gate := make(chan struct{})
	release := sync.OnceFunc(func() { close(gate) })
	begun := make(chan struct{}, 100)
	defer release()
	s.fakeWorker("w1", func(ctx context.Context, it core.WorkItem) ([]byte, error) {
		begun <- struct{}{}
		select {
		case <-gate:
		case <-ctx.Done():
		}
		return []byte("1"), ctx.Err()
	})
	in, out := s.input(numbered(3)...), s.path("o ut.jsonl")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	var stdout, stderr bytes.Buffer
	args := []string{"submit", "--plugin", "fake", "--method", "m", "--input", in, "--wait", "--output", out, "--addr", s.addr, "--tls-dir", s.tls()}
	code := Operator(ctx, args, nil, &stdout, &stderr)
	_, back, found := strings.Cut(strings.TrimSpace(stderr.String()), "come back with: rollout ")
	if code != ExitFailure || !found || !absent(out) || absent(out+".partial") {
		t.Fatalf("status %d, %s", code, stderr.String())
	}
	release()
	// What it says is a command that works.
	words := strings.Fields(strings.ReplaceAll(back, "'"+out+"'", "OUT"))
	for i, w := range words {
		if w == "OUT" {
			words[i] = out
		}
	}
	if _, stderr, code := call(Operator, words...); code != ExitOK || len(results(t, readFile(t, out))) != 3 || !absent(out+".partial") {
		t.Errorf("%q: status %d, %s", back, code, stderr)
	}
}

func TestResumeTakesWhatIsDone(t *testing.T) {
	s := newSite(t)
	var mu sync.Mutex // guards calls
	calls := map[string]int{}
	s.fakeWorker("w1", func(_ context.Context, it core.WorkItem) ([]byte, error) {
		mu.Lock()
		defer mu.Unlock()
		calls[it.ID]++
		return []byte("1"), nil
	})
	submit := func(n int, flags ...string) string {
		t.Helper()
		args := append([]string{"submit", "--plugin", "fake", "--method", "m", "--input", s.input(numbered(n)...), "--wait", "--output", s.path("out.jsonl")}, flags...)
		_, stderr, code := s.rollout(args...)
		if code != ExitOK || len(results(t, readFile(t, s.path("out.jsonl")))) != n {
			t.Fatalf("%v: status %d, %s", args, code, stderr)
		}
		return stderr
	}
	submit(4)
	if stderr := submit(6, "--resume"); !strings.Contains(stderr, "4 taken from earlier jobs") {
		t.Errorf("resume says %s", stderr)
	}
	submit(2)
	mu.Lock()
	defer mu.Unlock()
	for id, want := range map[string]int{"item 0": 2, "item 3": 1, "item 5": 1} {
		if calls[id] != want {
			t.Errorf("%s was computed %d times, want %d", id, calls[id], want)
		}
	}
}

func TestAnOutputThatCannotBeWrittenIsToldFirst(t *testing.T) {
	s := newSite(t)
	_, stderr, code := s.rollout("submit", "--plugin", "fake", "--method", "m", "--input", s.input("{}"), "--wait", "--output", s.path("no", "out.jsonl"))
	if code != ExitUsage || !strings.Contains(stderr, "no such file") {
		t.Errorf("status %d, %s", code, stderr)
	}
	if stdout, _, _ := s.rollout("jobs"); !strings.Contains(stdout, "no job has been submitted yet") {
		t.Errorf("it left %s", stdout)
	}
}
