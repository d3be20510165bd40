package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestCoordinatorWorkersAndOperatorTogether(t *testing.T) {
	s := newSite(t)
	w1, w2 := s.worker("w1"), s.worker("w2")
	id1, id2 := s.coord.await(core.TopicWorkerRegistered, 1).WorkerID, s.coord.await(core.TopicWorkerRegistered, 2).WorkerID
	if id1 == id2 {
		t.Fatalf("both workers are %s", id1)
	}
	s.coord.await(core.TopicWorkerState, 2)

	out, stderr, code := s.rollout("workers", "--json")
	var rows []core.WorkerRow
	if err := json.Unmarshal([]byte(out), &rows); err != nil || code != ExitOK || len(rows) != 2 {
		t.Fatalf("workers --json: %v, status %d, %s%s", err, code, out, stderr)
	}
	for _, r := range rows {
		if r.State != core.StateReady || r.Liveness != core.LivenessAlive || r.Epoch != 1 || r.LastSeenAt.IsZero() {
			t.Errorf("row %+v", r)
		}
	}
	for _, c := range []struct {
		args []string
		want []string
	}{
		{[]string{"workers"}, []string{"WORKER", "LAST BEAT", id1, id2, "ready", "alive"}},
		{[]string{"status"}, []string{"2 alive", s.addr, "every 2s"}},
		{[]string{"status", "--json"}, []string{`"alive":2`}},
		{[]string{"events"}, []string{"coordinator_started", "worker_registered", id2}},
		{[]string{"events", "--json"}, []string{`{"seq":1,"event":{"ts":`}},
		{[]string{"cert", "show"}, []string{"ca.pem", "admin.pem", "spiffe://rollout/", "valid"}},
	} {
		out, stderr, code := s.rollout(c.args...)
		for _, want := range c.want {
			if code != ExitOK || !strings.Contains(out, want) {
				t.Errorf("rollout %v: status %d, lacks %q:\n%s%s", c.args, code, want, out, stderr)
			}
		}
	}
	token, _, code := s.rollout("token", "new", "--uses", "1", "--ttl", "1h")
	if code != ExitOK || len(strings.TrimSpace(token)) < 20 {
		t.Errorf("token new: status %d, %q", code, token)
	}

	if _, stderr, code := s.rollout("workers", "forget", id1); code != ExitFailure || !strings.Contains(stderr, "alive") {
		t.Errorf("forgetting a live worker: status %d, %s", code, stderr)
	}
	if out, stderr, code := s.rollout("drain", id1); code != ExitOK || !strings.Contains(out, "drained") {
		t.Errorf("drain: status %d, %s%s", code, out, stderr)
	}
	first, second := w1, w2
	if strings.Contains(w2.stderr(), id1) {
		first, second = w2, w1
	}
	if code := first.wait(); code != ExitOK {
		t.Errorf("the drained worker ends with %d: %s", code, first.lastLine())
	}
	if code := second.exit(); code != ExitOK {
		t.Errorf("the stopped worker ends with %d: %s", code, second.lastLine())
	}
	s.coord.await(core.TopicWorkerDeregistered, 2)
	if _, stderr, code := s.rollout("workers", "forget", id1); code != ExitOK {
		t.Errorf("forgetting a worker that left: status %d, %s", code, stderr)
	}
	if code := s.coord.exit(); code != ExitOK {
		t.Errorf("the coordinator ends with %d: %s", code, s.coord.lastLine())
	}
	s.coord.await(core.TopicCoordinatorStopped, 1)
}

func TestTheSameOverQUIC(t *testing.T) {
	t.Setenv("ROLLOUT_TRANSPORT_PROTOCOL", "quic")
	s := newSite(t)
	w := s.worker("w1")
	s.coord.await(core.TopicWorkerState, 1)
	if out, _, code := s.rollout("status"); code != ExitOK || !strings.Contains(out, "(quic)") {
		t.Errorf("status: %d, %s", code, out)
	}
	if code := w.exit(); code != ExitOK {
		t.Errorf("the worker ends with %d: %s", code, w.lastLine())
	}
	s.coord.await(core.TopicWorkerDeregistered, 1)
}

func TestAWorkerKeepsItsIdentityAndGetsANewEpoch(t *testing.T) {
	s := newSite(t)
	id := core.NewWorkerID().String()
	w := s.worker("w1", "--worker-id", id)
	s.coord.await(core.TopicWorkerState, 1)
	if code := w.exit(); code != ExitOK {
		t.Fatalf("it ends with %d: %s", code, w.lastLine())
	}
	w = s.worker("w1")
	if ev := s.coord.await(core.TopicWorkerRegistered, 2); ev.WorkerID != id || ev.Attrs["epoch"] != 2.0 {
		t.Errorf("the second start registers as %s with %v", ev.WorkerID, ev.Attrs)
	}
	if code := w.exit(); code != ExitOK {
		t.Errorf("it ends with %d: %s", code, w.lastLine())
	}
}

// Two processes with one identity, as a copied data directory makes them: the older
// one must give way.
func TestACopiedDataDirectoryEndsTheOlderProcess(t *testing.T) {
	s := newSite(t)
	w := s.worker("w1")
	s.coord.await(core.TopicWorkerState, 1)
	if code := w.exit(); code != ExitOK {
		t.Fatal(w.lastLine())
	}
	if err := os.CopyFS(s.path("copy"), os.DirFS(s.path("w1"))); err != nil {
		t.Fatal(err)
	}
	restrict(t, s.path("copy"))
	s.coord.await(core.TopicWorkerDeregistered, 1)
	before := len(s.coord.topics(core.TopicWorkerState)) // a quick end need not tell of draining
	w = s.worker("w1")
	s.coord.await(core.TopicWorkerState, before+1) // ready of the second life
	twin := s.worker("copy")
	if code := w.wait(); code != ExitFenced || !strings.Contains(w.lastLine(), "another process") {
		t.Errorf("the older process ends with %d: %s", code, w.lastLine())
	}
	if code := twin.exit(); code != ExitOK {
		t.Errorf("the newer process ends with %d: %s", code, twin.lastLine())
	}
}

// restrict makes a copied tree private again.
func restrict(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAClosedStdoutEndsNothing(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	s := newSite(t)
	closed := func(ctx context.Context, args []string, in io.Reader, _, stderr io.Writer) int {
		return Worker(ctx, args, in, w, stderr)
	}
	worker := launch(t, closed, "--addr", s.addr, "--data-dir", s.path("w"), "--tls-dir", s.tls())
	s.coord.await(core.TopicWorkerState, 1)
	if code := worker.exit(); code != ExitOK {
		t.Errorf("it ends with %d: %s", code, worker.lastLine())
	}
}

func TestABackupOfARunningCoordinatorIsAStore(t *testing.T) {
	s := newSite(t)
	out := s.path("copy.db")
	if _, stderr, code := s.rollout("store", "backup", out); code != ExitOK {
		t.Fatalf("status %d, %s", code, stderr)
	}
	info, err := os.Stat(out)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the copy is %v, %v", info, err)
	}
	if _, stderr, code := s.rollout("store", "backup", out); code != ExitFailure || !strings.Contains(stderr, "exists") {
		t.Errorf("a second copy onto it: status %d, %s", code, stderr)
	}
	if _, stderr, code := call(Operator, "store", "backup", out, s.path("copy2.db")); code != ExitOK {
		t.Errorf("a copy of the copy: status %d, %s", code, stderr)
	}
	if _, stderr, code := call(Operator, "store", "backup", s.path("c", "rollout.db"), s.path("copy3.db")); code != ExitFailure || !strings.Contains(stderr, fmt.Sprint(os.Getpid())) {
		t.Errorf("a copy of a file in use: status %d, %s", code, stderr)
	}
}

func TestAnIssuedIdentityIsAccepted(t *testing.T) {
	s := newSite(t)
	if _, stderr, code := call(Operator, "cert", "issue", "--name", "night-shift", "--out", s.path("ops"), "--tls-dir", s.tls()); code != ExitOK {
		t.Fatalf("status %d, %s", code, stderr)
	}
	if out, stderr, code := call(Operator, "status", "--addr", s.addr, "--tls-dir", s.path("ops")); code != ExitOK {
		t.Errorf("status %d, %s%s", code, out, stderr)
	}
	if _, stderr, code := call(Operator, "cert", "rotate", "--tls-dir", s.tls()); code != ExitOK {
		t.Errorf("status %d, %s", code, stderr)
	}
	if _, stderr, code := s.rollout("status"); code != ExitOK {
		t.Errorf("after rotate: status %d, %s", code, stderr)
	}
}
