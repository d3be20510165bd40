package coordinator

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
	"github.com/rollout-substrate/rollout/pkg/transport"
	agent "github.com/rollout-substrate/rollout/pkg/worker"
)

// TestEndToEnd runs a coordinator on a file and two workers in this process, over
// real sockets and mutual TLS: they enrol, live, one is drained by an operator, the
// coordinator restarts under the other, and nobody is ever declared failed.
func TestEndToEnd(t *testing.T) {
	for _, protocol := range []transport.Protocol{transport.ProtocolH2, transport.ProtocolQUIC} {
		t.Run(string(protocol), func(t *testing.T) { endToEnd(t, protocol) })
	}
}

func endToEnd(t *testing.T, protocol transport.Protocol) {
	dir := t.TempDir()
	rec := &recorder{}
	cfg := Config{
		StoragePath: filepath.Join(dir, "rollout.db"), TLSDir: filepath.Join(dir, "tls"), ListenAddr: "127.0.0.1:0",
		Protocol: protocol, Timing: core.DefaultTiming(5 * time.Second), Emitter: rec, Logger: testLog(t),
	}
	c := serveReal(t, cfg)
	cfg.ListenAddr = c.Addr()
	first := runWorker(t, cfg, filepath.Join(dir, "w1"))
	second := runWorker(t, cfg, filepath.Join(dir, "w2"))
	inState := func(c *started, state core.WorkerState, n int) {
		t.Helper()
		c.eventually(t, func() bool {
			got := 0
			for _, w := range c.workers {
				if w.state == state && w.liveness == core.LivenessAlive {
					got++
				}
			}
			return got == n
		})
	}
	inState(c, core.StateReady, 2)

	admin, err := transport.DialAdmin(transport.AdminConfig{Addr: cfg.ListenAddr, TLSDir: cfg.TLSDir})
	if err != nil {
		t.Fatal(err)
	}
	rows, err := admin.Workers(t.Context())
	if err != nil || len(rows) != 2 {
		t.Fatalf("%+v, %v", rows, err)
	}
	drained := rows[1].ID
	seq, err := admin.SendCommand(t.Context(), drained, core.Command{Kind: core.CommandDrain})
	if err != nil {
		t.Fatal(err)
	}
	if res, err := admin.AwaitCommand(t.Context(), drained, seq); err != nil || res.Code != core.CodeUnknown {
		t.Errorf("the drain was answered with %+v, %v", res, err)
	}
	c.eventually(t, func() bool { return c.workers[drained].liveness == core.LivenessDeregistered })
	if err := admin.Close(); err != nil {
		t.Error(err)
	}
	if err := c.stop(); err != nil {
		t.Fatalf("stop: %v", err)
	}

	c = serveReal(t, cfg) // on the same port, with the other worker still alive
	c.eventually(t, func() bool {
		return slices.ContainsFunc(slices.Collect(maps.Values(c.workers)), func(w *worker) bool { return w.id != drained && w.control != nil && w.beatSeq > 0 })
	})
	inState(c, core.StateReady, 1)
	first.cancel()
	second.cancel()
	for _, w := range []*realWorker{first, second} {
		if err := <-w.ended; err != nil {
			t.Errorf("a worker ended with %v", err)
		}
	}
	c.eventually(t, func() bool {
		return !slices.ContainsFunc(slices.Collect(maps.Values(c.workers)), func(w *worker) bool { return w.liveness != core.LivenessDeregistered })
	})
	if err := c.stop(); err != nil {
		t.Fatalf("second stop: %v", err)
	}
	if failed := rec.of(core.TopicWorkerFailed); len(failed) != 0 {
		t.Errorf("false deaths: %+v", failed)
	}
	if n := len(rec.of(core.TopicWorkerDeregistered)); n != 2 {
		t.Errorf("%d workers left", n)
	}
}

// serveReal runs a coordinator with its sockets.
func serveReal(t *testing.T, cfg Config) *started {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	st := &started{Coordinator: c, rec: cfg.Emitter.(*recorder)}
	st.run(t)
	return st
}

// realWorker is a worker of package worker in this process.
type realWorker struct {
	cancel context.CancelFunc
	ended  chan error
}

func runWorker(t *testing.T, cfg Config, dir string) *realWorker {
	ctx, cancel := context.WithCancel(context.Background())
	w := &realWorker{cancel: cancel, ended: make(chan error, 1)}
	store := memstore.New(memstore.Options{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.ended <- agent.Run(ctx, agent.Config{
			Store: store, IdentityDir: filepath.Join(dir, "identity"), Addr: cfg.ListenAddr, TLSDir: cfg.TLSDir,
			Protocol: cfg.Protocol, Logger: testLog(t),
		})
	}()
	t.Cleanup(func() {
		cancel()
		<-done
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}
