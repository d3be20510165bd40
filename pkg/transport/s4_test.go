package transport

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// honest beats beside an attack and fails the test when a beat is not answered.
func honest(t *testing.T, h *harness) (stop func()) {
	w, ref := h.registered()
	s, err := w.OpenHeartbeat(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	var n atomic.Uint64
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			if _, err := s.Beat(ctxFor(t), beat(ref, n.Add(1))); err != nil {
				t.Errorf("honest beat %d: %v", n.Load(), err)
				return
			}
		}
	})
	return func() {
		at := n.Load()
		eventually(t, "the honest worker is served", func() bool { return n.Load() > at+3 })
		close(done)
		wg.Wait()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// TestS4HalfOpen opens connections that never finish their handshake, and ones that
// finish it and then stay silent or trickle; all are closed, and an honest worker is
// served all along.
func TestS4HalfOpen(t *testing.T) {
	h := newHarness(t, ProtocolH2, func(c *Config, _ *AuthorityConfig) {
		c.Limits.Handshake = 300 * time.Millisecond
		c.Limits.Stranger = 300 * time.Millisecond
		c.Limits.WorkerPerSecond = -1
	})
	stop := honest(t, h)
	defer stop()
	n := chaosCount(t, 200)
	var wg sync.WaitGroup
	for i := range n {
		c, err := net.Dial("tcp", h.srv.Addr())
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		wg.Go(func() {
			defer c.Close()
			var conn io.ReadWriter = c
			switch i % 3 {
			case 1: // half a hello
				if _, err := c.Write([]byte{22, 3, 1, 2, 0, 1}); err != nil {
					return
				}
			case 2: // a stranger who says nothing more
				cfg := h.showing(nil)
				cfg.NextProtos = []string{"h2"}
				tc := tls.Client(c, cfg)
				if tc.Handshake() != nil {
					return // cut while it was slow: what is wanted
				}
				conn = tc
			}
			_ = c.SetReadDeadline(time.Now().Add(patience))
			_, err := io.Copy(io.Discard, conn)
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Errorf("connection %d was left open", i)
			}
		})
	}
	wg.Wait()
}

// TestS4Oversize sends a message and a header above the limits.
func TestS4Oversize(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p, func(c *Config, _ *AuthorityConfig) { c.Limits.WorkerPerSecond = -1 })
		stop := honest(t, h)
		defer stop()
		id := core.NewWorkerID()
		cc := h.rawConn(h.showing(h.forge(h.auth, workerTemplate(h.core.run, id), time.Hour, time.Time{})))
		reg := transportv1.NewRegistryClient(cc)
		_, err := reg.Register(ctxFor(t), &transportv1.RegisterRequest{WorkerId: id.String(), InventoryJson: make([]byte, 2<<20)}, grpc.MaxCallSendMsgSize(8<<20))
		wantCode(t, err, core.CodeTooLarge)
		_, err = reg.Register(ctxFor(t), &transportv1.RegisterRequest{WorkerId: id.String(), InventoryJson: []byte(`{"hostname":"` + strings.Repeat("x", maxInventoryBytes) + `"}`)})
		wantCode(t, err, core.CodeTooLarge)
		ctx := metadata.AppendToOutgoingContext(ctxFor(t), "bomb", strings.Repeat("x", 64<<10))
		if _, err := reg.Register(ctx, &transportv1.RegisterRequest{WorkerId: id.String()}); err == nil {
			t.Error("a header of 64 KiB passed")
		}
		h.core.mu.Lock()
		defer h.core.mu.Unlock()
		if h.core.last[id].ID == id {
			t.Error("an oversize call reached its handler")
		}
	})
}

// TestS4Floods opens a thousand streams on one connection and floods another with
// pings and with resets.
func TestS4Floods(t *testing.T) {
	h := newHarness(t, ProtocolH2, func(c *Config, _ *AuthorityConfig) { c.Limits.WorkerPerSecond = -1 })
	stop := honest(t, h)
	defer stop()
	t.Run("streams", func(t *testing.T) {
		w, ref := h.registered()
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		var open atomic.Int64
		for range 1000 {
			wg.Go(func() {
				// Beyond the limit a stream waits for its turn until ctx ends.
				if s, err := w.OpenHeartbeat(ctx, nil); err == nil {
					if _, err := s.Beat(ctx, beat(ref, 1)); err == nil {
						open.Add(1)
					}
				}
			})
		}
		limit := int64(DefaultLimits().Streams)
		eventually(t, "streams up to the limit", func() bool { return open.Load() >= limit })
		if n := open.Load(); n > limit {
			t.Errorf("%d streams are served on one connection, the limit is %d", n, limit)
		}
		cancel()
		wg.Wait()
	})
	for _, flood := range []string{"ping", "reset"} {
		t.Run(flood, func(t *testing.T) {
			cfg := h.showing(h.forge(h.auth, workerTemplate(h.core.run, core.NewWorkerID()), time.Hour, time.Time{}))
			cfg.NextProtos = []string{"h2"}
			c, err := tls.Dial("tcp", h.srv.Addr(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if err := pour(c, flood); err == nil && flood == "ping" {
				t.Error("a ping flood is never cut")
			}
		})
	}
}

// pour floods a connection with frames until it is cut or enough were sent.
func pour(c net.Conn, kind string) error {
	if _, err := io.WriteString(c, http2.ClientPreface); err != nil {
		return err
	}
	cut := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, c); cut <- fmt.Errorf("cut: %w", err) }()
	f := http2.NewFramer(c, nil)
	if err := f.WriteSettings(); err != nil {
		return err
	}
	for i := range uint32(20_000) {
		var err error
		if kind == "ping" {
			err = f.WritePing(false, [8]byte{byte(i)})
		} else if err = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, BlockFragment: []byte{0x83}, EndHeaders: true}); err == nil {
			err = f.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		}
		if err != nil {
			return err
		}
	}
	if kind == "reset" {
		return nil // whether it is cut is gRPC's to say
	}
	select {
	case err := <-cut:
		return err
	case <-time.After(patience):
		return nil
	}
}

// TestS4Crowd limits the connections of one worker and of everybody, and the calls
// of one worker.
func TestS4Crowd(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p, func(c *Config, _ *AuthorityConfig) {
			c.Limits.WorkerConnections = 2
			c.Limits.WorkerPerSecond, c.Limits.WorkerBurst = 0.001, 10
		})
		id := core.NewWorkerID()
		i := h.issued(id, time.Hour)
		served := 0
		for range 4 {
			w := h.dial(h.client(i))
			if _, err := w.Register(ctxFor(t), core.Registration{ID: id, ProtocolMax: 1}); err == nil {
				served++
			}
		}
		if served != 2 || h.srv.Connections() != 2 {
			t.Errorf("%d of 4 connections of one worker are served, %d are open, the limit is 2", served, h.srv.Connections())
		}
		w, ref := h.registered()
		var err error
		for n := uint64(1); n <= 20 && err == nil; n++ {
			_, err = w.Beat(ctxFor(t), beat(ref, n))
		}
		wantCode(t, err, core.CodeThrottled)
	})
}

// TestStampede lets every worker come at the same moment: all are served, and then
// all again.
func TestStampede(t *testing.T) {
	h := newHarness(t, ProtocolH2)
	ids := make([]*Identity, 100)
	for n := range ids {
		ids[n] = h.issued(core.NewWorkerID(), time.Hour)
	}
	for range 2 {
		var wg sync.WaitGroup
		for _, i := range ids {
			w := h.dial(h.client(i))
			wg.Go(func() {
				r, err := w.Register(ctxFor(t), core.Registration{ID: i.ID(), ProtocolMax: 1})
				if err != nil {
					t.Errorf("register: %v", err)
					return
				}
				if _, err := w.Beat(ctxFor(t), beat(core.WorkerRef{ID: i.ID(), Epoch: r.Epoch}, 1)); err != nil {
					t.Errorf("beat: %v", err)
				}
			})
		}
		wg.Wait()
	}
	if len(h.srv.gate.slots) != 0 {
		t.Errorf("%d slots for handshakes are held by nobody", len(h.srv.gate.slots))
	}
}

func TestAddrLimiterIsBounded(t *testing.T) {
	l := newAddrLimiter(1e-4, 2)
	for i := range 3 * maxAddrs {
		l.allowHost(fmt.Sprint(i))
	}
	if n := len(l.addrs); n > maxAddrs {
		t.Errorf("%d addresses are remembered, the bound is %d", n, maxAddrs)
	}
	if l.allowHost("a newcomer") {
		t.Error("addresses beyond the bound have no common allowance")
	}
	l.sweep(time.Now().Add(24 * time.Hour))
	if n := len(l.addrs); n != 0 {
		t.Errorf("%d idle addresses survive a sweep", n)
	}
}
