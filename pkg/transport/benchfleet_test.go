package transport

import (
	"os"
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
// reports what one costs the coordinator. ROLLOUT_BENCH_BURST is how many of each
// process join at once (0: all), ROLLOUT_BENCH_SECONDS how long is measured.
func BenchmarkWorkers(b *testing.B) {
	for _, p := range []Protocol{ProtocolH2, ProtocolQUIC} {
		b.Run(string(p)+"/1000-500ms", func(b *testing.B) { benchWorkers(b, p, 1000, 500*time.Millisecond) })
		b.Run(string(p)+"/2000-500ms", func(b *testing.B) { benchWorkers(b, p, 2000, 500*time.Millisecond) })
		b.Run(string(p)+"/10000-5s", func(b *testing.B) { benchWorkers(b, p, 10_000, 5*time.Second) })
	}
}

func benchWorkers(b *testing.B, proto Protocol, n int, h time.Duration) {
	const processes = 2
	p := startProgram(b, proto, h)
	before := p.status("RssAnon")
	joined := time.Now()
	var ls []*crew
	for range processes {
		ls = append(ls, p.startCrew(n/processes, envNumber(b, "ROLLOUT_BENCH_BURST", 64)))
	}
	for _, l := range ls {
		l.ready()
	}
	b.ReportMetric(time.Since(joined).Seconds(), "join-s")
	<-time.After(2 * h) // the handshakes are behind us
	sum := func() (sum loadReport) {
		for _, l := range ls {
			r := l.report()
			sum.Beats, sum.Failed = sum.Beats+r.Beats, sum.Failed+r.Failed
			sum.P50, sum.P99, sum.Max = max(sum.P50, r.P50), max(sum.P99, r.P99), max(sum.Max, r.Max)
			sum.FirstError += r.FirstError
		}
		return sum
	}
	sum()
	cpu, start := p.cpu(), time.Now()
	b.ResetTimer()
	// What is measured is a span of time, in which the beats are written once at least.
	<-time.After(max(time.Duration(envNumber(b, "ROLLOUT_BENCH_SECONDS", 20))*time.Second, 3*h))
	b.StopTimer()
	cpu = p.cpu() - cpu
	r := sum()
	if r.Failed != 0 {
		b.Errorf("%d failures, such as %s", r.Failed, r.FirstError)
	}
	if dead := p.of(core.TopicWorkerFailed); len(dead) != 0 {
		b.Errorf("%d false deaths", len(dead))
	}
	b.ReportMetric(float64(p.status("RssAnon")-before)/float64(n)/1024, "KiB/worker")
	b.ReportMetric(float64(cpu.Microseconds())/float64(r.Beats), "cpu-us/beat")
	b.ReportMetric(float64(r.Beats)/time.Since(start).Seconds(), "beats/s")
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
