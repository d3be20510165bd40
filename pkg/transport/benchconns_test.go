package transport

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// loadSpec is what a load process is told, as JSON in its environment.
type loadSpec struct {
	Addr, Dir string
	Protocol  Protocol
	Workers   int
	H         time.Duration
	Burst     int // handshakes at once; 0: all
}

// loadReport is what it says of its last seconds.
type loadReport struct {
	Beats, Failed int64
	P50, P99      time.Duration
	FirstError    string
}

const loadEnv = "ROLLOUT_TRANSPORT_LOAD"

// loadMain is a process of many workers. It prints "ready" once all of them beat,
// starts to measure at each line of its input and prints a report, and ends with its
// input.
func loadMain(text string) error {
	var spec loadSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	a, err := LoadAuthority(spec.Dir)
	if err != nil {
		return err
	}
	key, err := newKey()
	if err != nil {
		return err
	}
	l := &loadProcess{spec: spec}
	if spec.Burst == 0 {
		spec.Burst = spec.Workers
	}
	gate := make(chan struct{}, spec.Burst)
	var ready sync.WaitGroup
	for range spec.Workers {
		id := core.NewWorkerID()
		c, err := a.IssueWorker(id, key.Public(), time.Hour)
		if err != nil {
			return err
		}
		i := &Identity{id: id, key: key, now: time.Now}
		if i.cert, err = i.accept(c); err != nil {
			return err
		}
		ready.Add(1)
		gate <- struct{}{}
		go func() {
			w, ref, s, err := l.join(i)
			<-gate
			ready.Done()
			if err != nil {
				l.fail(err)
				return
			}
			l.beat(w, ref, s)
		}()
	}
	ready.Wait()
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		b, err := json.Marshal(l.take())
		if err != nil {
			return err
		}
		fmt.Println(string(b))
	}
	return in.Err()
}

type loadProcess struct {
	spec loadSpec

	mu     sync.Mutex // guards the fields below
	times  []time.Duration
	failed int64
	first  string
}

func (l *loadProcess) join(i *Identity) (*WorkerConn, core.WorkerRef, *HeartbeatStream, error) {
	w, err := DialWorker(ClientConfig{Addr: l.spec.Addr, TLSDir: l.spec.Dir, Protocol: l.spec.Protocol, Identity: i})
	if err != nil {
		return nil, core.WorkerRef{}, nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := w.Register(ctx, core.Registration{ID: i.id, ProtocolMax: 1})
	if err != nil {
		return nil, core.WorkerRef{}, nil, err
	}
	ref := core.WorkerRef{ID: i.id, Epoch: r.Epoch}
	go func() { l.fail(w.Subscribe(context.Background(), ref, 0, func(core.Command) error { return nil })) }()
	s, err := w.OpenHeartbeat(context.Background(), nil)
	return w, ref, s, err
}

// beat beats for ever, from a random moment on.
func (l *loadProcess) beat(_ *WorkerConn, ref core.WorkerRef, s *HeartbeatStream) {
	<-time.After(rand.N(l.spec.H)) // spreads the workers as real ones are
	tick := time.NewTicker(l.spec.H)
	for seq := uint64(1); ; seq++ {
		start := time.Now()
		if _, err := s.Beat(context.Background(), beat(ref, seq)); err != nil {
			l.fail(err)
			return
		}
		d := time.Since(start)
		l.mu.Lock()
		l.times = append(l.times, d)
		l.mu.Unlock()
		<-tick.C
	}
}

func (l *loadProcess) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failed++
	if l.first == "" && err != nil {
		l.first = err.Error()
	}
}

// take returns what happened since the last take.
func (l *loadProcess) take() loadReport {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := loadReport{Beats: int64(len(l.times)), Failed: l.failed, FirstError: l.first}
	if n := len(l.times); n > 0 {
		slices.Sort(l.times)
		r.P50, r.P99 = l.times[n/2], l.times[n*99/100]
	}
	l.times = l.times[:0]
	return r
}

// rssAnon is this process's anonymous resident memory in bytes.
func rssAnon(t testing.TB) int64 {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == "RssAnon:" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatal("no RssAnon")
	return 0
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // cannot fail for one's own process
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkWorkers serves many workers, each with a heartbeat and a control stream on
// one connection, from two other processes, and reports what one costs the server.
// ROLLOUT_BENCH_WORKERS and ROLLOUT_BENCH_H change the crowd, ROLLOUT_BENCH_BURST how
// many of each process join at once (0: all).
func BenchmarkWorkers(b *testing.B) {
	n, interval := 1000, 500*time.Millisecond
	if s := os.Getenv("ROLLOUT_BENCH_WORKERS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	if s := os.Getenv("ROLLOUT_BENCH_H"); s != "" {
		interval, _ = time.ParseDuration(s)
	}
	for _, p := range []Protocol{ProtocolH2, ProtocolQUIC} {
		b.Run(string(p), func(b *testing.B) { benchWorkers(b, p, n, interval) })
	}
}

func benchWorkers(b *testing.B, p Protocol, n int, interval time.Duration) {
	h := newHarness(b, p, func(c *Config, _ *AuthorityConfig) { c.Logger = nil })
	debug.FreeOSMemory()
	before := rssAnon(b)
	const processes = 2
	burst := 64
	if s := os.Getenv("ROLLOUT_BENCH_BURST"); s != "" {
		burst, _ = strconv.Atoi(s)
	}
	joined := time.Now()
	type process struct {
		cmd *exec.Cmd
		in  interface{ Write([]byte) (int, error) }
		out *bufio.Scanner
	}
	var ps []process
	for range processes {
		spec, err := json.Marshal(loadSpec{Addr: h.srv.Addr(), Dir: h.auth.Dir(), Protocol: p, Workers: n / processes, H: interval, Burst: burst})
		if err != nil {
			b.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), loadEnv+"="+string(spec))
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			b.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			b.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() }) // it ends with its input
		ps = append(ps, process{cmd, in, bufio.NewScanner(out)})
	}
	line := func(p process) string {
		if !p.out.Scan() {
			b.Fatal("a load process ended")
		}
		return p.out.Text()
	}
	for _, p := range ps {
		if got := line(p); got != "ready" {
			b.Fatal(got)
		}
	}
	b.ReportMetric(time.Since(joined).Seconds(), "join-s")
	ask := func() (sum loadReport) {
		for _, p := range ps {
			if _, err := p.in.Write([]byte("\n")); err != nil {
				b.Fatal(err)
			}
		}
		for _, p := range ps {
			var r loadReport
			if err := json.Unmarshal([]byte(line(p)), &r); err != nil {
				b.Fatal(err)
			}
			sum.Beats, sum.Failed = sum.Beats+r.Beats, sum.Failed+r.Failed
			sum.P50, sum.P99 = max(sum.P50, r.P50), max(sum.P99, r.P99)
			if r.FirstError != "" {
				sum.FirstError = r.FirstError
			}
		}
		return sum
	}
	<-time.After(2 * interval) // the handshakes are behind us
	ask()
	cpu, start := cpuTime(), time.Now()
	b.ResetTimer()
	<-time.After(max(10*time.Second, 3*interval)) // what is measured is a span of time
	b.StopTimer()
	cpu = cpuTime() - cpu
	r := ask()
	if r.Failed != 0 {
		b.Errorf("%d failures, such as %s", r.Failed, r.FirstError)
	}
	anon := rssAnon(b)
	b.ReportMetric(float64(anon-before)/float64(n)/1024, "KiB/worker")
	b.ReportMetric(float64(cpu.Microseconds())/float64(r.Beats), "cpu-us/beat")
	b.ReportMetric(float64(r.Beats)/time.Since(start).Seconds(), "beats/s")
	b.ReportMetric(float64(r.P50.Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(r.P99.Microseconds())/1000, "p99-ms")
	b.ReportMetric(float64(runtime.NumGoroutine())/float64(n), "goroutines/worker")
	b.ReportMetric(float64(h.srv.Connections()), "conns")
}
