package transport

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// load keeps a worker busy on every channel and counts what failed.
type load struct {
	t      *testing.T
	stop   chan struct{}
	wg     sync.WaitGroup
	calls  atomic.Int64
	failed atomic.Int64
}

// loop repeats a call until the load stops. A call that passes one more time after
// stop proves nothing, so the loop just ends.
func (l *load) loop(what string, f func(n uint64) error) {
	l.wg.Go(func() {
		for n := uint64(1); ; n++ {
			select {
			case <-l.stop:
				return
			default:
			}
			l.calls.Add(1)
			if err := f(n); err != nil {
				if l.failed.Add(1) < 5 {
					l.t.Errorf("%s %d failed: %v", what, n, err)
				}
			}
		}
	})
}

// TestS3Rotation renews a certificate again and again under load: not one call or
// stream fails, and the newest certificate is what new connections show.
func TestS3Rotation(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p, func(c *Config, _ *AuthorityConfig) { c.Limits.WorkerPerSecond = -1; c.WorkerLife = time.Minute })
		w, ref := h.registered()
		s, err := w.OpenHeartbeat(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		l := &load{t: t, stop: make(chan struct{})}
		l.loop("stream beat", func(n uint64) error { _, err := s.Beat(ctxFor(t), beat(ref, n)); return err })
		l.loop("unary beat", func(n uint64) error { _, err := w.Beat(ctxFor(t), beat(ref, n)); return err })
		l.loop("acknowledge", func(n uint64) error {
			return w.Acknowledge(ctxFor(t), core.CommandResult{Worker: ref, Seq: n})
		})
		got := make(chan uint64, 4096)
		opened, ended := make(chan struct{}), make(chan error, 1)
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		go func() {
			ended <- w.SubscribeOpen(ctx, ref, 0, func() { close(opened) }, func(c core.Command) error { got <- c.Seq; return nil })
		}()
		within(t, "subscription", opened)
		serials := map[string]bool{w.cfg.Identity.Serial(): true}
		rotations := chaosCount(t, 5)
		for i := range rotations {
			if err := w.Renew(ctxFor(t)); err != nil {
				t.Fatalf("renewal %d: %v", i, err)
			}
			serials[w.cfg.Identity.Serial()] = true
			h.core.order(ref.ID, core.Command{Kind: core.CommandDrain})
			if seq := within(t, "command after renewal", got); seq != uint64(i+1) {
				t.Fatalf("renewal %d: command %d arrived", i, seq)
			}
			// The load must have used the new link before the next renewal.
			before := l.calls.Load()
			eventually(t, "load goes on", func() bool { return l.calls.Load() > before+20 })
		}
		select {
		case err := <-ended:
			t.Errorf("the subscription ended: %v", err)
		default:
		}
		close(l.stop)
		l.wg.Wait()
		if len(serials) != rotations+1 || l.failed.Load() != 0 {
			t.Errorf("%d serials after %d rotations, %d of %d calls failed", len(serials), rotations, l.failed.Load(), l.calls.Load())
		}
		select {
		case ref := <-h.core.gone:
			t.Errorf("a rotation made %v suspect", ref)
		default:
		}
		n := uint64(1 << 20)
		eventually(t, "old connections close", func() bool {
			n++
			if _, err := s.Beat(ctxFor(t), beat(ref, n)); err != nil {
				t.Fatal(err)
			}
			return h.srv.Connections() <= 1
		})
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		t.Logf("%d rotations, %d calls, 0 failed", rotations, l.calls.Load())
	})
}

// TestS3Expiry lets a certificate expire on a live connection: the connection ends
// and nothing of it is served any more.
func TestS3Expiry(t *testing.T) {
	t.Parallel() // it mostly waits
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		id := core.NewWorkerID()
		i := h.issued(id, time.Hour)
		// The worker's own clock believes the certificate for longer than it lasts, as a
		// clock that runs behind does, so that only the server's judgement counts.
		i.now = func() time.Time { return time.Now().Add(-4 * time.Minute) }
		h.issue(i, 1500*time.Millisecond)
		w := h.dial(h.client(i))
		r, err := w.Register(ctxFor(t), core.Registration{ID: id, ProtocolMax: 1})
		if err != nil {
			t.Fatal(err)
		}
		ref := core.WorkerRef{ID: id, Epoch: r.Epoch}
		s, err := w.OpenHeartbeat(ctxFor(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Beat(ctxFor(t), beat(ref, 1)); err != nil {
			t.Fatal(err)
		}
		opened := make(chan struct{})
		ended := make(chan error, 1)
		go func() { ended <- w.SubscribeOpen(ctxFor(t), ref, 0, func() { close(opened) }, nil) }()
		within(t, "subscription", opened)
		if err := within(t, "end of the subscription", ended); err == nil {
			t.Error("a subscription outlives the certificate")
		}
		eventually(t, "the heartbeat stream ends", func() bool { return s.Err() != nil })
		if got := within(t, "Disconnected", h.core.gone); got != ref {
			t.Errorf("disconnected %+v", got)
		}
		before := h.core.count()
		eventually(t, "calls are refused as expired", func() bool {
			_, err := w.Register(ctxFor(t), core.Registration{ID: id, ProtocolMax: 1})
			return IsRefused(err)
		})
		if n := h.core.count(); n != before {
			t.Errorf("%d handlers ran for an expired certificate", n-before)
		}
		eventually(t, "the connection is closed", func() bool { return h.srv.Connections() == 0 })
		i.now = time.Now
		_, err = w.Register(ctxFor(t), core.Registration{ID: id})
		wantCode(t, err, core.CodeUnauthenticated)
		_, err = DialWorker(h.client(i))
		wantCode(t, err, core.CodeUnauthenticated)
	})
}

// TestExpiryPerMessage moves the server's clock instead of waiting: the next message
// of a stream is refused even though the connection still stands.
func TestS3ExpiryPerMessage(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		stream, unary := beatExpired(t, p, false)
		wantCode(t, stream, core.CodeUnauthenticated)
		wantCode(t, unary, core.CodeUnauthenticated)
	})
}

// TestS3MissingCheckIsSeen plants the bug that the check of each message is for.
func TestS3MissingCheckIsSeen(t *testing.T) {
	if stream, unary := beatExpired(t, ProtocolH2, true); stream != nil || unary != nil {
		t.Errorf("without the check an expired certificate is still refused: %v, %v", stream, unary)
	}
}

// beatExpired beats, moves the server's clock behind the certificate's end, and beats
// again on the same stream and in a call of its own.
func beatExpired(t *testing.T, p Protocol, plant bool) (stream, unary error) {
	t.Helper()
	var ahead atomic.Int64
	h := newHarness(t, p, func(c *Config, a *AuthorityConfig) {
		c.planted.expiry = plant
		a.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	w, ref := h.registered()
	s, err := w.OpenHeartbeat(ctxFor(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Beat(ctxFor(t), beat(ref, 1)); err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(2 * time.Hour))
	_, stream = s.Beat(ctxFor(t), beat(ref, 2))
	_, unary = w.Beat(ctxFor(t), beat(ref, 3))
	return stream, unary
}
