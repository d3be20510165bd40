package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost"
)

// childEnv makes the test binary one of the programs, for tests that must stop or kill
// a process of its own.
const childEnv = "CLI_TEST_PROGRAM"

func TestMain(m *testing.M) {
	// The launcher of sidecars is this program again, in an environment of its own.
	if len(os.Args) > 1 && os.Args[1] == launchVerb {
		os.Exit(pluginhost.LaunchMain(os.Args[2:]))
	}
	if main, ok := programs()[os.Getenv(childEnv)]; ok {
		ctx, stop := WithSignals(context.Background(), os.Exit)
		code := main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
		stop()
		os.Exit(code)
	}
	// Under the race detector every child of the tests would sleep for a second at its
	// end, in case another of its threads is still about to report something.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

type program func(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int

func programs() map[string]program {
	return map[string]program{"coordinator": Coordinator, "worker": Worker, "rollout": Operator}
}

// patience bounds waits on whose length nothing is promised.
const patience = 60 * time.Second

// running is a program in process, and what it printed.
type running struct {
	*transcript
	stop context.CancelFunc
	done chan int

	mu      sync.Mutex // guards the fields below
	events  []core.Event
	changed chan struct{}
}

// launch runs a program until the test ends or it is told to stop.
func launch(t *testing.T, main program, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{transcript: newTranscript(t), stop: cancel, done: make(chan int, 1), changed: make(chan struct{})}
	out, in := io.Pipe()
	go r.read(out)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		code := main(ctx, args, strings.NewReader(""), in, r)
		if err := in.Close(); err != nil {
			t.Error(err)
		}
		r.done <- code
	}()
	t.Cleanup(func() {
		cancel()
		<-finished
		if t.Failed() {
			t.Logf("%v printed:\n%s", args, r.stderr())
		}
	})
	return r
}

func (r *running) read(out io.Reader) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var ev core.Event
		if err := json.Unmarshal(lines.Bytes(), &ev); err != nil {
			r.t.Errorf("stdout holds a line that is no event: %q", lines.Text())
		}
		r.mu.Lock()
		r.events = append(r.events, ev)
		close(r.changed)
		r.changed = make(chan struct{})
		r.mu.Unlock()
	}
}

// await waits for the n-th event of a topic.
func (r *running) await(topic string, n int) core.Event {
	r.t.Helper()
	return r.awaitOf(topic, "", n)
}

// awaitOf waits for the n-th event of a topic and a worker; empty: of any.
func (r *running) awaitOf(topic, worker string, n int) core.Event {
	r.t.Helper()
	deadline := time.After(patience)
	for {
		r.mu.Lock()
		changed, found := r.changed, 0
		for _, ev := range r.events {
			if ev.Topic == topic && (worker == "" || ev.WorkerID == worker) {
				if found++; found == n {
					r.mu.Unlock()
					return ev
				}
			}
		}
		r.mu.Unlock()
		select {
		case <-changed:
		case <-deadline:
			r.t.Fatalf("no %s came:\n%s", topic, r.stderr())
		}
	}
}

// topics returns the events of a topic that have come.
func (r *running) topics(topic string) (out []core.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, ev := range r.events {
		if ev.Topic == topic {
			out = append(out, ev)
		}
	}
	return out
}

// exit stops the program and returns its status.
func (r *running) exit() int {
	r.t.Helper()
	r.stop()
	return r.wait()
}

// wait returns the status of a program that ends by itself.
func (r *running) wait() int {
	r.t.Helper()
	select {
	case code := <-r.done:
		r.done <- code
		return code
	case <-time.After(patience):
		r.t.Fatalf("it does not end:\n%s", r.stderr())
		return -1
	}
}

// lastLine returns the last line on stderr, which says why a program ended.
func (r *running) lastLine() string {
	lines := strings.Split(strings.TrimSpace(r.stderr()), "\n")
	return lines[len(lines)-1]
}

// site is a directory with a running coordinator.
type site struct {
	t     *testing.T
	dir   string
	coord *running
	addr  string
}

// newSite starts a coordinator on a free port. H is generous: what is tested here is
// not how fast things are noticed.
func newSite(t *testing.T, extra ...string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	t.Setenv("ROLLOUT_TRANSPORT_LISTEN_ADDR", "127.0.0.1:0")
	t.Setenv("ROLLOUT_TRANSPORT_HEARTBEAT_INTERVAL", "2s")
	s.coord = launch(t, Coordinator, append([]string{"--data-dir", s.path("c")}, extra...)...)
	s.addr = s.coord.await(core.TopicCoordinatorStarted, 1).Attrs["addr"].(string)
	return s
}

func (s *site) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

func (s *site) tls() string { return s.path("c", "tls") }

// worker starts a worker with a data directory of its own.
func (s *site) worker(name string, extra ...string) *running {
	s.t.Helper()
	return launch(s.t, Worker, append([]string{"--addr", s.addr, "--data-dir", s.path(name), "--tls-dir", s.tls()}, extra...)...)
}

// rollout runs the operator's tool and returns what it printed.
func (s *site) rollout(args ...string) (stdout, stderr string, code int) {
	s.t.Helper()
	return call(Operator, append(args, "--addr", s.addr, "--tls-dir", s.tls())...)
}

// call runs a program to its end.
func call(main program, args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	code = main(ctx, args, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}
