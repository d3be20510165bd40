package transport

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// ms is a duration as a benchmark reports it.
func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// BenchmarkWorkers lets a coordinator process serve many workers, each with a
// heartbeat and a control stream on one connection, from two other processes, and
// reports what one costs the coordinator. raw is a plain grpc-go server over mutual
// TLS that answers beats and does nothing else. ROLLOUT_BENCH_BURST is how many of each
// process join at once (0: all), ROLLOUT_BENCH_SECONDS how long is measured.
func BenchmarkWorkers(b *testing.B) {
	for _, c := range []struct {
		name string
		n    int
		h    time.Duration
	}{{"1000-500ms", 1000, 500 * time.Millisecond}, {"2000-500ms", 2000, 500 * time.Millisecond}, {"10000-5s", 10_000, 5 * time.Second}} {
		for _, p := range []Protocol{ProtocolH2, ProtocolQUIC} {
			b.Run(string(p)+"/"+c.name, func(b *testing.B) {
				p := startProgram(b, p, c.h)
				benchWorkers(b, p.cmd, c.n, c.h, p.startCrew)
				if dead := p.of(core.TopicWorkerFailed); len(dead) != 0 {
					b.Errorf("%d false deaths", len(dead))
				}
			})
		}
		b.Run("raw/"+c.name, func(b *testing.B) {
			a, err := OpenAuthority(AuthorityConfig{Dir: filepath.Join(b.TempDir(), "tls"), Run: core.NewRunID()})
			if err != nil {
				b.Fatal(err)
			}
			server := startCrew(b, loadSpec{Raw: true, Dir: a.Dir()})
			spec := loadSpec{Raw: true, Dir: a.Dir(), Addr: server.line(), H: c.h}
			benchWorkers(b, server.cmd, c.n, c.h, func(workers, burst int) *crew {
				spec.Group++
				spec.Workers, spec.Burst = workers, burst
				return startCrew(b, spec)
			})
		})
	}
}

// benchWorkers measures what n workers cost a server process. start starts a process
// of workers.
func benchWorkers(b *testing.B, server *exec.Cmd, n int, h time.Duration, start func(workers, burst int) *crew) {
	const processes = 2
	before := memory(b, server, "RssAnon")
	joined := time.Now()
	var cs []*crew
	for range processes {
		cs = append(cs, start(n/processes, envNumber(b, "ROLLOUT_BENCH_BURST", 64)))
	}
	for _, c := range cs {
		c.ready()
	}
	b.ReportMetric(time.Since(joined).Seconds(), "join-s")
	<-time.After(2 * h) // the handshakes are behind us
	sum := func() (sum loadReport) {
		for _, c := range cs {
			r := c.report()
			sum.Beats, sum.Failed = sum.Beats+r.Beats, sum.Failed+r.Failed
			sum.P50, sum.P99, sum.Max = max(sum.P50, r.P50), max(sum.P99, r.P99), max(sum.Max, r.Max)
			sum.FirstError += r.FirstError
		}
		return sum
	}
	sum()
	cpu, began := processor(b, server), time.Now()
	b.ResetTimer()
	// What is measured is a span of time, in which the beats are written once at least.
	<-time.After(max(time.Duration(envNumber(b, "ROLLOUT_BENCH_SECONDS", 20))*time.Second, 3*h))
	b.StopTimer()
	cpu = processor(b, server) - cpu
	r := sum()
	if r.Failed != 0 {
		b.Errorf("%d failures, such as %s", r.Failed, r.FirstError)
	}
	b.ReportMetric(float64(memory(b, server, "RssAnon")-before)/float64(n)/1024, "KiB/worker")
	b.ReportMetric(float64(cpu.Microseconds())/float64(r.Beats), "cpu-us/beat")
	b.ReportMetric(float64(r.Beats)/time.Since(began).Seconds(), "beats/s")
	b.ReportMetric(ms(r.P50), "p50-ms")
	b.ReportMetric(ms(r.P99), "p99-ms")
	b.ReportMetric(ms(r.Max), "max-ms")
}

func envNumber(t testing.TB, name string, def int) int {
	s := os.Getenv(name)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s=%q is no number", name, s)
	}
	return n
}

// BenchmarkDetection measures the time from a worker's death to the coordinator
// process's worker_failed, over 200 deaths by SIGKILL and SIGSTOP in turns. Ten die
// together, of seventy, so that no mass failure is suspected.
func BenchmarkDetection(b *testing.B) {
	for _, p := range []Protocol{ProtocolH2, ProtocolQUIC} {
		b.Run(string(p), func(b *testing.B) { benchDetection(b, p) })
	}
}

func benchDetection(b *testing.B, proto Protocol) {
	const (
		h      = core.DefaultHeartbeatInterval
		rounds = 20
		die    = 10
	)
	var times []time.Duration
	for b.Loop() {
		p := startProgram(b, proto, h)
		p.startCrew(60, 0).ready()
		for round := range rounds {
			l := p.startCrew(die, 0)
			l.ready()
			<-time.After(h + time.Duration(round)*h/rounds) // beats come from all over the interval
			sig := []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP}[round%2]
			times = append(times, p.deaths(l, sig)...)
			l.end()
		}
		if dead := len(p.failedAt()); dead != rounds*die {
			b.Errorf("%d workers were declared failed, %d died", dead, rounds*die)
		}
	}
	slices.Sort(times)
	b.ReportMetric(ms(times[len(times)/2]), "p50-ms")
	b.ReportMetric(ms(times[len(times)*99/100]), "p99-ms")
	b.ReportMetric(ms(times[len(times)-1]), "max-ms")
	b.ReportMetric(float64(times[len(times)-1])/float64(h), "max-H")
}

// deaths sends a signal that ends a load process's life and returns how long after it
// each of its workers was told to be failed.
func (p *program) deaths(l *crew, sig syscall.Signal) []time.Duration {
	p.t.Helper()
	at := l.signal(sig)
	var times []time.Duration
	eventually(p.t, "every death is told", func() bool {
		times = times[:0]
		for worker, told := range p.failedAt() {
			if l.has(worker) {
				times = append(times, told.Sub(at))
			}
		}
		return len(times) >= l.spec.Workers
	})
	return times
}
