package transport

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// TestNobodyThere names what is in the way, and whether waiting may help.
func TestNobodyThere(t *testing.T) {
	t.Parallel() // it mostly waits
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		i := h.issued(core.NewWorkerID(), time.Hour)
		cfg := h.client(i)
		try := func(cfg ClientConfig) error {
			w := h.dial(cfg)
			_, err := w.Register(ctxFor(t), core.Registration{ID: i.ID()})
			return err
		}
		// The port of a stopped server could be another test's by now; nobody binds this host.
		cfg.Addr = "127.0.0.2:" + cfg.Addr[strings.LastIndexByte(cfg.Addr, ':')+1:]
		err := try(cfg)
		wantCode(t, err, core.CodeUnavailable)
		if IsRefused(err) || IsUnresolved(err) || !strings.Contains(err.Error(), "nobody listens on "+cfg.Addr) {
			t.Errorf("nobody there: %v", err)
		}
		cfg.Addr = "no-such-host.invalid:1"
		err = try(cfg)
		var dns *net.DNSError
		if !errors.As(err, &dns) {
			t.Errorf("an unknown host: %v", err)
		} else if dns.IsNotFound && (!IsUnresolved(err) || !strings.Contains(err.Error(), "unknown: check coordinator_addr")) {
			t.Errorf("an unknown host: %v", err)
		}
		cfg.Addr = "nonsense"
		_, err = DialWorker(cfg)
		wantCode(t, err, core.CodeConfigInvalid)
	})
}

// TestWrongTrust: each cause has its own sentence, and all are refusals.
func TestWrongTrust(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		other := newHarness(t, p, ownCA)
		late := newHarness(t, p, func(_ *Config, a *AuthorityConfig) {
			a.Now = func() time.Time { return time.Now().Add(5 * 365 * 24 * time.Hour) }
		})
		try := func(h *harness, cfg ClientConfig) error {
			w := h.dial(cfg)
			_, err := w.Register(ctxFor(t), core.Registration{ID: cfg.Identity.ID()})
			return err
		}
		wrongCA := h.client(h.issued(core.NewWorkerID(), time.Hour))
		wrongCA.TLSDir = other.auth.Dir()
		wrongName := h.client(h.issued(core.NewWorkerID(), time.Hour))
		wrongName.ServerName = "elsewhere.example.org"
		foreign := h.client(other.issued(core.NewWorkerID(), time.Hour))
		ahead := late.client(h.issued(core.NewWorkerID(), time.Hour))
		for name, c := range map[string]struct {
			err  error
			text string
		}{
			"wrong CA":       {try(h, wrongCA), "another CA"},
			"wrong name":     {try(h, wrongName), "for another name"},
			"foreign worker": {try(h, foreign), "CA of our certificate"},
			"clock far off":  {try(late, ahead), "clock"},
			"wrong CA, enrolling": {func() error {
				c := wrongCA
				c.Identity = h.identity(core.NewWorkerID())
				return Enrol(ctxFor(t), c)
			}(), "another CA"},
		} {
			if !core.IsCode(c.err, core.CodeUnauthenticated) || !IsRefused(c.err) || !strings.Contains(c.err.Error(), c.text) || strings.Contains(c.err.Error(), "\n") {
				t.Errorf("%s: %v (code %v), want one line with %q", name, c.err, core.CodeOf(c.err), c.text)
			}
		}
		if n := h.core.count() + other.core.count() + late.core.count(); n != 0 {
			t.Errorf("%d handlers ran", n)
		}
	})
}

// TestClientClockWrong: the worker's certificate is fine and the server believes it
// has expired, because one of the clocks is off.
func TestClientClockWrong(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		i := h.issued(core.NewWorkerID(), time.Hour)
		i.now = func() time.Time { return time.Now().Add(-4 * time.Minute) }
		c, err := h.auth.IssueWorker(i.ID(), i.key.Public(), -time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if err := i.store(c.Raw); err != nil {
			t.Fatal(err)
		}
		_, err = h.dial(h.client(i)).Register(ctxFor(t), core.Registration{ID: i.ID()})
		wantCode(t, err, core.CodeUnauthenticated)
		if !strings.Contains(err.Error(), "clock") {
			t.Errorf("a clock that is off reads %v", err)
		}
	})
}

// TestUDPBlocked runs a QUIC worker against a coordinator that answers over TCP only.
func TestUDPBlocked(t *testing.T) {
	t.Parallel() // it mostly waits
	h := newHarness(t, ProtocolH2)
	cfg := h.client(h.issued(core.NewWorkerID(), time.Hour))
	cfg.Protocol = ProtocolQUIC
	_, err := h.dial(cfg).Register(ctxFor(t), core.Registration{ID: cfg.Identity.ID()})
	wantCode(t, err, core.CodeUnavailable)
	if !strings.Contains(err.Error(), "over TCP but not over UDP") || IsRefused(err) {
		t.Errorf("blocked UDP reads %v", err)
	}
}

// TestNotACoordinator dials something that listens and speaks no TLS.
func TestNotACoordinator(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("SSH-2.0-no\r\n"))
			_ = c.Close()
		}
	}()
	h := newHarness(t, ProtocolH2)
	cfg := h.client(h.issued(core.NewWorkerID(), time.Hour))
	cfg.Addr = l.Addr().String()
	_, err = h.dial(cfg).Register(ctxFor(t), core.Registration{ID: cfg.Identity.ID()})
	wantCode(t, err, core.CodeVersionMismatch)
}

// TestFilesNotYetThere: a worker that starts first waits, and is told for what.
func TestFilesNotYetThere(t *testing.T) {
	h := newHarness(t, ProtocolH2)
	cfg := h.client(h.issued(core.NewWorkerID(), time.Hour))
	cfg.TLSDir = t.TempDir()
	_, err := DialWorker(cfg)
	wantCode(t, err, core.CodeUnavailable)
	if !strings.Contains(err.Error(), filepath.Join(cfg.TLSDir, FileCA)) {
		t.Errorf("what is waited for is not named: %v", err)
	}
	ca, err := os.ReadFile(filepath.Join(h.auth.Dir(), FileCA))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(cfg.TLSDir, FileCA), ca, 0o644); err != nil {
		t.Fatal(err)
	}
	err = Enrol(ctxFor(t), cfg)
	wantCode(t, err, core.CodeUnavailable)
	if !strings.Contains(err.Error(), filepath.Join(cfg.TLSDir, FileToken)) || core.RetryOf(err).Kind == core.RetryNever {
		t.Errorf("what is waited for is not named: %v", err)
	}
	_, err = DialAdmin(AdminConfig{Addr: h.srv.Addr(), TLSDir: cfg.TLSDir})
	wantCode(t, err, core.CodeNotFound)
}

func TestListenErrors(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		make := func(addr string) error {
			s, err := NewServer(Config{Addr: addr, Protocol: p, Authority: h.auth, Epoch: 1}, h.core.services())
			if err == nil {
				err = errors.Join(errors.New("it started"), s.Close())
			}
			return err
		}
		err := make(h.srv.Addr())
		wantCode(t, err, core.CodeBusy)
		if !strings.Contains(err.Error(), "transport.listen_addr") {
			t.Errorf("a port in use reads %v", err)
		}
		wantCode(t, make("192.0.2.1:1"), core.CodeConfigInvalid)
		wantCode(t, make("nonsense"), core.CodeConfigInvalid)
	})
	err := Config{Addr: "x", Protocol: "carrier pigeon", ServerNames: []string{"a b", "-x"}}.Validate().Err("x")
	wantCode(t, err, core.CodeConfigInvalid)
	if n := strings.Count(err.Error(), "\n") + 1; n != 6 {
		t.Errorf("%d violations are reported, want all 6: %v", n, err)
	}
	_, err = NewServer(Config{}, Services{})
	wantCode(t, err, core.CodeConfigInvalid)
}

// TestServerNeverRun releases its sockets.
func TestServerNeverRun(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		s, err := NewServer(Config{Addr: "127.0.0.1:0", Protocol: p, Authority: h.auth, Epoch: 1}, h.core.services())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		l, err := net.Listen("tcp", s.Addr())
		if err != nil {
			t.Fatalf("the port is still held: %v", err)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestShutdown: a call in flight is answered, streams end, later calls find nobody.
func TestShutdown(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p, func(c *Config, _ *AuthorityConfig) { c.Limits.Drain = patience })
		w, ref := h.registered()
		s, err := w.OpenHeartbeat(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Beat(ctxFor(t), beat(ref, 1)); err != nil {
			t.Fatal(err)
		}
		opened, ended := make(chan struct{}), make(chan error, 1)
		go func() { ended <- w.SubscribeOpen(ctxFor(t), ref, 0, func() { close(opened) }, nil) }()
		within(t, "subscription", opened)
		hold, holding, answer := make(chan struct{}), make(chan struct{}), make(chan error, 1)
		h.core.mu.Lock()
		h.core.hold, h.core.holding = hold, holding
		h.core.mu.Unlock()
		go func() {
			_, err := w.Register(ctxFor(t), core.Registration{ID: ref.ID, ProtocolMax: 1})
			answer <- err
		}()
		within(t, "call in flight", holding)
		stopped := make(chan error, 1)
		go func() { stopped <- h.stop() }()
		wantCode(t, within(t, "end of the subscription", ended), core.CodeUnavailable)
		close(hold)
		if err := within(t, "the call in flight", answer); err != nil {
			t.Errorf("a call in flight was dropped: %v", err)
		}
		if err := within(t, "stop", stopped); err != nil {
			t.Error(err)
		}
		eventually(t, "the heartbeat stream ends", func() bool { return s.Err() != nil })
		select {
		case ref := <-h.core.gone:
			t.Errorf("the coordinator's own stop made %v suspect", ref)
		default:
		}
	})
}

// TestRestart: the same connection object works again once a coordinator listens on
// the same address, with a higher epoch.
func TestRestart(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		w, ref := h.registered()
		addr := h.srv.Addr()
		for epoch := uint64(1001); epoch < 1004; epoch++ {
			if err := h.stop(); err != nil {
				t.Fatal(err)
			}
			h.core.mu.Lock()
			h.core.epoch = epoch
			h.core.mu.Unlock()
			h.start(Config{Addr: addr, Protocol: p, Authority: h.auth, Epoch: epoch})
			eventually(t, "a good call after the restart", func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
				defer cancel()
				_, err := w.Beat(ctx, beat(ref, epoch))
				return err == nil
			})
			if got := w.cfg.Guard.Epoch(); got != epoch {
				t.Errorf("the guard has seen epoch %d, want %d", got, epoch)
			}
		}
	})
}
