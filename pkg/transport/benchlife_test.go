package transport

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// spawnWorker starts one worker in a process of its own and waits until it beats.
func (h *harness) spawnWorker() *exec.Cmd {
	h.t.Helper()
	spec, err := json.Marshal(loadSpec{Addr: h.srv.Addr(), Dir: h.auth.Dir(), Protocol: h.proto, Workers: 1, H: 20 * time.Millisecond})
	if err != nil {
		h.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), loadEnv+"="+string(spec))
	cmd.Stderr = os.Stderr
	if _, err = cmd.StdinPipe(); err != nil {
		h.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		h.t.Fatal(err)
	}
	before := h.core.count()
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	if s := bufio.NewScanner(out); !s.Scan() || s.Text() != "ready" {
		h.t.Fatalf("the worker process says %q", s.Text())
	}
	// Registered, subscribed and a beat taken.
	eventually(h.t, "the worker beats", func() bool { return h.core.count() >= before+3 })
	return cmd
}

// killed kills a worker process and returns how long the server took to notice.
func (h *harness) killed(cmd *exec.Cmd) time.Duration {
	h.t.Helper()
	start := time.Now()
	if err := cmd.Process.Kill(); err != nil {
		h.t.Fatal(err)
	}
	within(h.t, "Disconnected", h.core.gone)
	d := time.Since(start)
	_ = cmd.Wait() // it was killed, which is its status
	return d
}

// TestKilledWorkerIsNoticed kills a worker's process: its connection tells, before
// any timeout does.
func TestKilledWorkerIsNoticed(t *testing.T) {
	t.Parallel() // it mostly waits
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		t.Logf("noticed after %v", h.killed(h.spawnWorker()))
	})
}

// BenchmarkKilledPeer measures the time from a worker's SIGKILL to Disconnected.
func BenchmarkKilledPeer(b *testing.B) {
	for _, p := range []Protocol{ProtocolH2, ProtocolQUIC} {
		b.Run(string(p), func(b *testing.B) {
			h := newHarness(b, p)
			var times []time.Duration
			for b.Loop() {
				b.StopTimer()
				cmd := h.spawnWorker()
				b.StartTimer()
				times = append(times, h.killed(cmd))
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(times[len(times)-1].Microseconds())/1000, "worst-ms")
		})
	}
}

// vanish ends a QUIC server as SIGKILL does: nobody is told. It returns the address.
func (h *harness) vanish() string {
	h.t.Helper()
	addr := h.srv.Addr()
	if err := h.srv.udp.udp.Close(); err != nil {
		h.t.Fatal(err)
	}
	if err := h.stop(); err != nil {
		h.t.Fatal(err)
	}
	return addr
}

// TestQUICServerVanishes restarts a coordinator that told nobody. Its successor on
// the same port resets the old connections, because the reset key persists.
func TestQUICServerVanishes(t *testing.T) {
	h := newHarness(t, ProtocolQUIC)
	w, ref := h.registered()
	t.Logf("first good call after %v", h.comeBack(w, ref, 1001))
}

// comeBack restarts a vanished server and returns how long the first good call of a
// caller that keeps calling took.
func (h *harness) comeBack(w *WorkerConn, ref core.WorkerRef, epoch uint64) time.Duration {
	addr := h.vanish()
	h.start(Config{Addr: addr, Protocol: ProtocolQUIC, Authority: h.auth, Epoch: epoch})
	start := time.Now()
	eventually(h.t, "a good call", func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		_, err := w.Beat(ctx, beat(ref, epoch))
		return err == nil
	})
	return time.Since(start)
}

// BenchmarkQUICRestart measures the first good call after a coordinator vanished and
// came back.
func BenchmarkQUICRestart(b *testing.B) {
	h := newHarness(b, ProtocolQUIC)
	w, ref := h.registered()
	var times []time.Duration
	epoch := uint64(1000)
	for b.Loop() {
		epoch++
		times = append(times, h.comeBack(w, ref, epoch))
	}
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(times[len(times)-1].Microseconds())/1000, "worst-ms")
}
