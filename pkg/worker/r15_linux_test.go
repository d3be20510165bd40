package worker

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	ndjson "github.com/rollout-substrate/rollout/internal/events"
	"github.com/rollout-substrate/rollout/pkg/coordinator"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// lossy is one fleet behind one wire.
type lossy struct {
	Protocol transport.Protocol
	Percent  float64       // of the packets that are lost, each way
	Workers  int           // in one process
	Span     time.Duration // how long it is watched; 0: until every worker has beaten a few times
	H        time.Duration
	CutEvery int64 // see wire
	NoRetry  bool  // planted: a beat that fails is not sent again

	Dir         string
	Coordinator bool // this process is to be the coordinator, not the workers
}

// outcome is what came of a fleet that nobody killed.
type outcome struct {
	failed, fenced     int // told by the coordinator, by the workers
	passed, lost, cuts int64
}

const (
	lossyEnv   = "ROLLOUT_WORKER_LOSSY"
	lossyAddr  = "10.231.0.1:7001"
	lossyDelay = 80 * time.Millisecond // each way
)

// TestR15LossyNetwork lets workers live behind a network that loses packets each way
// and delays them by 80 ms each way: up to a loss of 10 % nobody is declared failed, and
// less than once in its hour a worker fences itself; what 30 % do is reported. One more
// fleet has its connections reset under its beats. ROLLOUT_CHAOS_COUNT is how many minutes;
// without it, a few workers only pass through.
func TestR15LossyNetwork(t *testing.T) {
	minutes := rounds(t, 0)
	if minutes == 0 {
		lossy{Protocol: transport.ProtocolH2, Percent: 10, Workers: 4, H: time.Second, CutEvery: 50}.try(t)
		return
	}
	// All at once, however few processors there are: they mostly wait.
	var group sync.WaitGroup
	defer group.Wait()
	try := func(name string, f func(*testing.T)) { group.Go(func() { t.Run(name, f) }) }
	base := lossy{Protocol: transport.ProtocolH2, Workers: 200, H: 5 * time.Second, Span: time.Duration(minutes) * time.Minute}
	for _, p := range []transport.Protocol{transport.ProtocolH2, transport.ProtocolQUIC} {
		for _, percent := range []float64{1, 10, 30} {
			try(fmt.Sprintf("%s-%v%%", p, percent), func(t *testing.T) {
				l := base
				l.Protocol, l.Percent = p, percent
				l.try(t)
			})
		}
	}
	resets := base
	resets.Percent, resets.CutEvery = 1, 500
	try("resets", resets.try)
	planted := resets
	planted.NoRetry = true
	try("planted", func(t *testing.T) {
		if o := planted.run(t); o.failed+o.fenced == 0 {
			t.Errorf("workers that never send a beat again were not found out: %+v", o)
		}
	})
}

// try runs the fleet and judges it.
func (l lossy) try(t *testing.T) {
	o := l.run(t)
	hours := float64(l.Workers) * l.Span.Hours()
	t.Logf("%s, %v %% lost, %d workers, H = %v, %v: %d packets passed, %d lost, %d connections cut; %d declared failed, %d fenced in %.1f worker hours",
		l.Protocol, l.Percent, l.Workers, l.H, l.Span, o.passed, o.lost, o.cuts, o.failed, o.fenced, hours)
	switch {
	case o.lost == 0 || l.CutEvery > 0 && o.cuts == 0:
		t.Error("the network was a good one, which proves nothing")
	case l.Span == 0: // a few seconds of a busy machine are no verdict
	case l.Percent > 10:
		t.Logf("%.1f false deaths in a worker's hour, of less than 1 to reach", float64(o.failed)/hours)
	case o.failed > 0, float64(o.fenced) >= hours:
		t.Errorf("%d false deaths, and %d workers fenced themselves", o.failed, o.fenced)
	}
}

// run lets the fleet live and reports. Faults begin when every worker is ready.
func (l lossy) run(t *testing.T) (o outcome) {
	w := newWire(t, lossyDelay)
	l.Dir = t.TempDir()
	coord := l.start(t, w.sides[0], true)
	coord.await(t, "coordinator_started", 1)
	workers := l.start(t, w.sides[1], false)
	workers.await(t, "ready", l.Workers)
	failed, fenced := coord.count(core.TopicWorkerFailed), workers.count(core.TopicWorkerFenced)
	w.loss.Store(int64(l.Percent * 1e4))
	w.cutEvery.Store(l.CutEvery)
	if l.Span > 0 {
		<-time.After(l.Span) // what is watched is a span of time
	} else {
		workers.await(t, "beat", 4*l.Workers)
		waitFor(t, "something is lost", func() bool {
			return w.lost.Load() > 0 && (w.cuts.Load() > 0 || l.CutEvery == 0)
		})
	}
	return outcome{
		failed: coord.count(core.TopicWorkerFailed) - failed, fenced: workers.count(core.TopicWorkerFenced) - fenced,
		passed: w.passed.Load(), lost: w.lost.Load(), cuts: w.cuts.Load(),
	}
}

// child is a process on one side of the wire, whose lines are events.
type child struct {
	mu     sync.Mutex // guards topics
	topics map[string]int
}

// start starts this test's program again as a coordinator or as workers. It is killed
// when the test ends.
func (l lossy) start(t *testing.T, where *netns, coordinator bool) *child {
	t.Helper()
	l.Coordinator = coordinator
	spec, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), lossyEnv+"="+string(spec))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := where.do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	c := &child{topics: map[string]int{}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for sc := bufio.NewScanner(out); sc.Scan(); {
			var ev struct{ Topic string }
			if json.Unmarshal(sc.Bytes(), &ev) == nil {
				c.mu.Lock()
				c.topics[ev.Topic]++
				c.mu.Unlock()
			}
		}
	}()
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Errorf("a process ended by itself: %v", err)
		}
		<-read
		_ = cmd.Wait() // it was killed, which is its status
	})
	return c
}

func (c *child) count(topic string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.topics[topic]
}

func (c *child) await(t *testing.T, topic string, n int) {
	t.Helper()
	waitFor(t, topic, func() bool { return c.count(topic) >= n })
}

// waitFor waits long: enrolment admits ten workers a second.
func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	end := time.After(5 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%s: waited in vain", what)
		}
	}
}

// lossyMain is the process that start has started.
func lossyMain(text string) error {
	var l lossy
	if err := json.Unmarshal([]byte(text), &l); err != nil {
		return err
	}
	em, err := ndjson.New(ndjson.Config{Writer: os.Stdout})
	if err != nil {
		return err
	}
	tls := filepath.Join(l.Dir, "tls")
	if l.Coordinator {
		return coordinator.Run(context.Background(), coordinator.Config{
			StoragePath: filepath.Join(l.Dir, "rollout.db"), TLSDir: tls, ListenAddr: lossyAddr, Protocol: l.Protocol,
			Timing: core.DefaultTiming(l.H), Emitter: em,
		})
	}
	ended := make(chan error)
	for i := range l.Workers {
		go func() { ended <- l.work(i, em, tls) }()
	}
	return <-ended // none does
}

// work is the life of one worker.
func (l lossy) work(i int, em core.EventEmitter, tls string) error {
	p, err := New(context.Background(), Config{
		Store: memstore.New(memstore.Options{}), IdentityDir: filepath.Join(l.Dir, fmt.Sprint("w", i)), Addr: lossyAddr, TLSDir: tls,
		Protocol: l.Protocol, Events: em, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	p.n.dialer = lossyDialer{p.n.dialer, l, em}
	go func() {
		<-p.Ready()
		em.Emit(core.Event{Kind: core.EventDomain, Topic: "ready"})
	}()
	return p.Run(context.Background())
}

// lossyDialer tells of answered beats where few are expected, and drops repeated ones
// where that is planted.
type lossyDialer struct {
	dialer
	l  lossy
	em core.EventEmitter
}

func (d lossyDialer) dial(ctx context.Context) (link, error) {
	l, err := d.dialer.dial(ctx)
	if err != nil {
		return nil, err
	}
	return &lossyLink{link: l, d: d}, nil
}

// lossyLink carries beats only.
type lossyLink struct {
	link
	d    lossyDialer
	last time.Time // of the last beat sent; touched by the beating goroutine only
}

func (l *lossyLink) Beats(ctx context.Context) (beatStream, error) {
	s, err := l.link.Beats(ctx)
	return &lossyBeats{s, l}, err
}

type lossyBeats struct {
	beatStream
	l *lossyLink
}

func (b *lossyBeats) Send(h core.Heartbeat) {
	if b.l.d.l.NoRetry && time.Since(b.l.last) < b.l.d.l.H*9/10 {
		return
	}
	b.l.last = time.Now()
	if b.l.d.l.Span == 0 {
		b.l.d.em.Emit(core.Event{Kind: core.EventDomain, Topic: "beat"})
	}
	b.beatStream.Send(h)
}
