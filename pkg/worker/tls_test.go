package worker

import (
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// served is the small coordinator of these tests behind a real server.
type served struct {
	*fakeLink
	f *fakeCoordinator
}

// Subscribe implements [core.Control].
func (s served) Subscribe(ctx context.Context, w core.WorkerRef, after uint64, send func(core.Command) error) error {
	return s.fakeLink.Subscribe(ctx, w, after, func() {}, send)
}

// Beat implements [core.Beats].
func (s served) Beat(_ context.Context, h core.Heartbeat) (core.BeatAck, error) {
	a := s.f.take(h)
	return a.ack, a.err
}

// Disconnected implements [core.Beats].
func (s served) Disconnected(core.WorkerRef, string) {}

// Admit implements [core.Enroller].
func (s served) Admit(context.Context, core.Enrolment) error { return nil }

// nobody is an [core.Admin] that no test asks.
type nobody struct{ core.Admin }

// TestCertificatesAreRenewedWithoutANewEpoch gives certificates a life of seconds and
// waits for the second one.
func TestCertificatesAreRenewedWithoutANewEpoch(t *testing.T) {
	for _, protocol := range []transport.Protocol{transport.ProtocolH2, transport.ProtocolQUIC} {
		t.Run(string(protocol), func(t *testing.T) {
			t.Parallel()
			renewals(t, protocol)
		})
	}
}

func renewals(t *testing.T, protocol transport.Protocol) {
	f := newFake()
	f.timing = core.DefaultTiming(10 * time.Second) // what is tested is not how fast a beat is
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	svc := served{fakeLink: &fakeLink{f: f, ctx: ctx, stop: stop}, f: f}
	ca, err := transport.OpenAuthority(transport.AuthorityConfig{Dir: filepath.Join(t.TempDir(), "tls"), Run: core.NewRunID()})
	if err != nil {
		t.Fatal(err)
	}
	srv, err := transport.NewServer(transport.Config{
		Addr: "127.0.0.1:0", Protocol: protocol, Authority: ca, Epoch: 7, WorkerLife: 8 * time.Second,
	}, transport.Services{Registry: svc, Beats: svc, Control: svc, Enroller: svc, Admin: nobody{}})
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan error, 1)
	serving, stopServing := context.WithCancel(context.Background())
	go func() { end <- srv.Run(serving) }()
	defer func() {
		stopServing()
		if err := <-end; err != nil {
			t.Error(err)
		}
	}()

	store := memstore.New(memstore.Options{})
	defer store.Close()
	cfg := Config{
		Store: store, Addr: srv.Addr(), Protocol: protocol, TLSDir: ca.Dir(), IdentityDir: filepath.Join(t.TempDir(), "identity"), Slots: 1,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}.withDefaults()
	rec, err := openRecord(t.Context(), store, core.WorkerID{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := newDialer(cfg, rec)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	life, leave := context.WithCancel(context.Background())
	go func() { done <- newNode(cfg, rec, d, readClock).run(life) }()

	serials := map[string]bool{}
	for deadline := time.After(time.Minute); len(serials) < 2; {
		select {
		case <-time.After(20 * time.Millisecond):
			if s := d.cfg.Identity.Serial(); s != "" {
				serials[s] = true
			}
		case <-deadline:
			t.Fatalf("only %d certificates in a minute", len(serials))
		}
	}
	leave()
	if err := <-done; err != nil {
		t.Error(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.registered) != 1 || len(f.deregister) != 1 {
		t.Errorf("registered %d times, deregistered %d times", len(f.registered), len(f.deregister))
	}
}
