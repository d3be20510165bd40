package cli

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// rounds returns how many rounds a fault test runs.
func rounds(t *testing.T, small int) int {
	t.Helper()
	text := os.Getenv("ROLLOUT_CHAOS_COUNT")
	if text == "" {
		return small
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("ROLLOUT_CHAOS_COUNT: %v", err)
	}
	return n
}

// child is a worker in a process of its own, which can be stopped.
type child struct {
	cmd    *exec.Cmd
	stdout bytes.Buffer // read after the end
	stderr bytes.Buffer
}

func (s *site) child(name string, extra ...string) *child {
	s.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	c := &child{cmd: exec.Command(exe, append([]string{"--addr", s.addr, "--data-dir", s.path(name), "--tls-dir", s.tls()}, extra...)...)}
	c.cmd.Env = append(os.Environ(), childEnv+"=worker")
	c.cmd.Stdout, c.cmd.Stderr = &c.stdout, &c.stderr
	if err := c.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if c.cmd.ProcessState == nil {
			// It may have ended meanwhile; Wait tells how in any case.
			_ = c.cmd.Process.Kill()
			_ = c.cmd.Wait()
		}
	})
	return c
}

func (c *child) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := c.cmd.Process.Signal(sig); err != nil {
		t.Fatal(err)
	}
}

// events returns what the child printed. It must have ended.
func (c *child) events(t *testing.T) (out []core.Event) {
	t.Helper()
	for line := range strings.Lines(c.stdout.String()) {
		var ev core.Event
		if err := json.Unmarshal([]byte(line), &ev); err != nil {
			t.Errorf("line %q: %v", line, err)
		}
		out = append(out, ev)
	}
	return out
}

// pause is one stop of a worker.
type pause struct{ from, to time.Time }

// TestR17StoppedWorkerFencesOnWaking stops a worker for 0.5 to 5 intervals again and
// again. A stop that outlasts the lease must end in worker_failed, worker_fenced after
// waking and a new epoch; after any stop the worker is alive again, and no beat of an
// ended epoch is taken.
func TestR17StoppedWorkerFencesOnWaking(t *testing.T) {
	const h = 500 * time.Millisecond
	s := &site{t: t, dir: t.TempDir()}
	t.Setenv("ROLLOUT_TRANSPORT_LISTEN_ADDR", "127.0.0.1:0")
	t.Setenv("ROLLOUT_TRANSPORT_HEARTBEAT_INTERVAL", h.String())
	s.coord = launch(t, Coordinator, "--data-dir", s.path("c"), "--log-level", "debug")
	s.addr = s.coord.await(core.TopicCoordinatorStarted, 1).Attrs["addr"].(string)
	w := s.child("w")
	s.coord.await(core.TopicWorkerState, 1)

	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 17))
	var pauses []pause
	failed, alive := 0, 1
	for range rounds(t, 5) {
		long := rnd.IntN(3) > 0
		d := h/2 + time.Duration(rnd.Int64N(int64(h/4)))
		if long {
			d = 2*h + time.Duration(rnd.Int64N(int64(3*h)))
		}
		p := pause{from: time.Now()}
		w.signal(t, syscall.SIGSTOP)
		<-time.After(d)
		if long {
			// On a busy machine the coordinator may look late; what counts is that it
			// has ended the epoch before the worker wakes.
			failed++
			s.coord.await(core.TopicWorkerFailed, failed)
		}
		p.to = time.Now()
		w.signal(t, syscall.SIGCONT)
		if long {
			s.coord.await(core.TopicWorkerRecovered, alive)
			alive++
			pauses = append(pauses, p)
		}
		// The next stop begins when beats are steady again.
		s.beats(2)
		failed = s.count(core.TopicWorkerFailed)
		alive = 1 + s.count(core.TopicWorkerRecovered)
	}
	w.signal(t, syscall.SIGTERM)
	if err := w.cmd.Wait(); err != nil {
		t.Fatalf("the worker ends with %v: %s", err, w.stderr.String())
	}
	s.coord.await(core.TopicWorkerDeregistered, 1)
	checkPauses(t, pauses, w.events(t))
	s.checkEpochs()
	t.Logf("%d pauses outlasted the lease", len(pauses))
}

// beats waits for n further beats.
func (s *site) beats(n int) {
	s.t.Helper()
	s.coord.await(core.TopicWorkerHeartbeat, s.count(core.TopicWorkerHeartbeat)+n)
}

func (s *site) count(topic string) (n int) {
	s.coord.mu.Lock()
	defer s.coord.mu.Unlock()
	for _, ev := range s.coord.events {
		if ev.Topic == topic {
			n++
		}
	}
	return n
}

// checkPauses looks for a worker_fenced after the end of each pause and before the
// next.
func checkPauses(t *testing.T, pauses []pause, evs []core.Event) {
	t.Helper()
	for i, p := range pauses {
		next := time.Now()
		if i+1 < len(pauses) {
			next = pauses[i+1].from
		}
		found := false
		for _, ev := range evs {
			found = found || ev.Topic == core.TopicWorkerFenced && ev.Time.After(p.from) && ev.Time.Before(next)
		}
		if !found {
			t.Errorf("pause %d of %v: the worker did not fence itself", i, p.to.Sub(p.from))
		}
	}
}

// checkEpochs walks the coordinator's events: epochs only grow, and once one has
// failed no beat of it is taken.
func (s *site) checkEpochs() {
	s.coord.mu.Lock()
	defer s.coord.mu.Unlock()
	epoch, over := 0.0, 0.0
	for _, ev := range s.coord.events {
		e, has := ev.Attrs["epoch"].(float64)
		if !has || ev.WorkerID == "" {
			continue
		}
		switch ev.Topic {
		case core.TopicWorkerFailed:
			over = e
		case core.TopicWorkerHeartbeat, core.TopicWorkerRecovered:
			if e <= over {
				s.t.Errorf("%s of epoch %v after that epoch had failed", ev.Topic, e)
			}
		}
		if e < epoch {
			s.t.Errorf("%s carries epoch %v after %v", ev.Topic, e, epoch)
		}
		epoch = max(epoch, e)
	}
	if epoch == 0 {
		s.t.Error("no event carries an epoch")
	}
}
