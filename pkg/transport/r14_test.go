package transport

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// crowd is what TestR14Detection asks for.
type crowd struct {
	workers, die, writers int
	h                     time.Duration
	judged                bool     // the figures are promised, not only that it works
	settings              []string // of the coordinator, to plant a fault
}

// verdict is what came of a crowd.
type verdict struct {
	missed, falsely int // deaths not told within 2 H, and workers declared failed that live
	worst           time.Duration
	beats           loadReport
	rss             int64
	writes          int64
}

// TestR14Detection runs a coordinator process beside a busy processor and 64 writers
// to its store, with a crowd of workers over mutual TLS in two processes, and kills
// one of the two: everyone in it, and nobody else, is declared failed. A long run has
// 10,000 workers at H = 5 s and judges the times, ROLLOUT_CHAOS_COUNT times over.
func TestR14Detection(t *testing.T) {
	t.Parallel() // it mostly waits
	rounds := chaosCount(t, 0)
	if rounds == 0 {
		v := crowd{workers: 20, die: 6, writers: 4, h: time.Second}.run(t, ProtocolH2, syscall.SIGKILL)
		t.Logf("%+v", v)
		return
	}
	big := crowd{workers: 10_000, die: 3_000, writers: 64, h: 5 * time.Second, judged: true}
	for round := range rounds {
		sig := []syscall.Signal{syscall.SIGKILL, syscall.SIGSTOP}[round%2]
		t.Run(fmt.Sprintf("%d-%v", round, sig), func(t *testing.T) {
			v := big.run(t, ProtocolH2, sig)
			t.Logf("%d of %d killed: worst %v of 2 H = %v; %d missed, %d falsely dead; beats p50 %v p99 %v max %v; %d MiB; %d writes",
				big.die, big.workers, v.worst, 2*big.h, v.missed, v.falsely, v.beats.P50, v.beats.P99, v.beats.Max, v.rss>>20, v.writes)
			if v.missed != 0 || v.falsely != 0 || v.beats.P99 >= big.h/10 || v.rss >= 2<<30 {
				t.Errorf("promised: none missed, none falsely dead, p99 below %v, below 2 GiB", big.h/10)
			}
		})
	}
	t.Run("planted", func(t *testing.T) {
		slow := crowd{workers: 200, die: 60, writers: 4, h: time.Second, judged: true, settings: []string{`coordinator_failure_timeout = "2100ms"`}}
		if v := slow.run(t, ProtocolH2, syscall.SIGKILL); v.missed == 0 {
			t.Errorf("a detection that takes 2.1 H was not found out: %+v", v)
		}
	})
}

func (c crowd) run(t *testing.T, proto Protocol, sig syscall.Signal) (v verdict) {
	p := startProgram(t, proto, c.h, c.settings...)
	if c.judged {
		startCrew(t, loadSpec{Burn: true}).ready()
	}
	writes, halt := writers(t, p, c.writers)
	stay, die := p.startCrew(c.workers-c.die, 64), p.startCrew(c.die, 64)
	stay.ready()
	die.ready()
	if c.judged {
		<-time.After(2 * c.h)
		stay.report()
		<-time.After(3 * c.h) // what is measured is a span of time
	}
	times := p.deaths(die, sig)
	if c.judged {
		<-time.After(2 * c.h) // a false death would come by now
	}
	v.beats, v.rss = stay.report(), memory(t, p.cmd, "VmHWM")
	for worker := range p.failedAt() {
		if !die.has(worker) {
			v.falsely++
		}
	}
	for _, d := range times {
		if d > 2*c.h {
			v.missed++
		}
	}
	v.worst = slices.Max(times)
	halt()
	v.writes = writes.Load()
	if c.judged && (v.beats.Failed != 0 || v.beats.Beats == 0 || v.writes == 0) {
		t.Errorf("the run proves nothing: %d failures, such as %q, %d beats, %d writes", v.beats.Failed, v.beats.FirstError, v.beats.Beats, v.writes)
	}
	return v
}

// writers submits jobs of one item, one after the other from each of n callers, until
// halt is called. Each is durable when it is answered.
func writers(t *testing.T, p *program, n int) (writes *atomic.Int64, halt func()) {
	t.Helper()
	a, err := DialAdmin(AdminConfig{Addr: p.addr, TLSDir: filepath.Join(p.dir, "data", "tls")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	writes = &atomic.Int64{}
	var group sync.WaitGroup
	for range n {
		group.Go(func() {
			for ctx.Err() == nil {
				once := false
				_, err := a.Submit(ctx, core.JobSpec{Plugin: "none", Digest: "d1", Method: "score"}, func() (core.JobItem, error) {
					if once {
						return core.JobItem{}, io.EOF
					}
					once = true
					return core.JobItem{ID: "1", Payload: []byte(`{"a":1}`)}, nil
				})
				if err == nil {
					writes.Add(1)
				} else if ctx.Err() == nil {
					t.Errorf("a writer failed: %v", err)
					return
				}
			}
		})
	}
	halt = sync.OnceFunc(func() {
		cancel()
		group.Wait()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(halt)
	return writes, halt
}
