package transport

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// benchBeats acknowledges beats and does nothing else, so that a benchmark measures
// this package.
type benchBeats struct{ n atomic.Int64 }

func (b *benchBeats) Beat(_ context.Context, h core.Heartbeat) (core.BeatAck, error) {
	b.n.Add(1)
	return core.BeatAck{Seq: h.Seq, CoordinatorEpoch: 1000, ReceivedAt: time.Now()}, nil
}

func (*benchBeats) Disconnected(core.WorkerRef, string) {}

// benchHarness serves benchBeats.
func benchHarness(b *testing.B, p Protocol) *harness {
	h := newHarness(b, p, func(c *Config, _ *AuthorityConfig) { c.Limits.WorkerPerSecond = -1; c.Logger = nil })
	addr := h.srv.Addr()
	if err := h.stop(); err != nil {
		b.Fatal(err)
	}
	svc := h.core.services()
	svc.Beats = &benchBeats{}
	srv, err := NewServer(Config{Addr: addr, Protocol: p, Authority: h.auth, Epoch: 1000, Limits: Limits{WorkerPerSecond: -1}}, svc)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	h.srv = srv
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	return h
}

// rawBeats is the baseline: a plain grpc-go service that answers.
type rawBeats struct {
	transportv1.UnimplementedHeartbeatServer
}

func (rawBeats) Beat(_ context.Context, m *transportv1.BeatRequest) (*transportv1.BeatResponse, error) {
	return &transportv1.BeatResponse{Seq: m.GetSeq(), CoordinatorEpoch: 1000, ReceivedUnixNs: m.GetSentUnixNs()}, nil
}

func (rawBeats) Stream(ss grpc.BidiStreamingServer[transportv1.BeatRequest, transportv1.BeatResponse]) error {
	for {
		m, err := ss.Recv()
		if isEOF(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ss.Send(&transportv1.BeatResponse{Seq: m.GetSeq(), CoordinatorEpoch: 1000, ReceivedUnixNs: m.GetSentUnixNs()}); err != nil {
			return err
		}
	}
}

// rawH2 is plain grpc-go over mTLS with its defaults.
func rawH2(b *testing.B, h *harness) *grpc.ClientConn {
	serverCert, err := h.srv.certs.get(nil)
	if err != nil {
		b.Fatal(err)
	}
	srv := grpc.NewServer(grpc.Creds(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*serverCert}, ClientCAs: h.auth.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
	})))
	transportv1.RegisterHeartbeatServer(srv, rawBeats{})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = srv.Serve(l) }() // returns at Stop
	b.Cleanup(srv.Stop)
	client, err := h.auth.WorkerCertificate(core.NewWorkerID(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	cc, err := grpc.NewClient("passthrough:///"+l.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{client}, RootCAs: h.auth.Pool(), ServerName: "localhost",
	})))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = cc.Close() })
	return cc
}

// rawQUIC is plain grpc-go on one QUIC stream.
func rawQUIC(b *testing.B, h *harness) *grpc.ClientConn {
	serverCert, err := h.srv.certs.get(nil)
	if err != nil {
		b.Fatal(err)
	}
	ln, err := quic.ListenAddr("127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{*serverCert}, ClientCAs: h.auth.Pool(),
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"raw"},
	}, &quic.Config{})
	if err != nil {
		b.Fatal(err)
	}
	streams := &chanListener{conns: make(chan net.Conn), done: make(chan struct{}), addr: ln.Addr()}
	go func() {
		c, err := ln.Accept(context.Background())
		if err != nil {
			return
		}
		defer func() { _ = c.CloseWithError(0, "") }()
		for err == nil {
			var st *quic.Stream
			if st, err = c.AcceptStream(context.Background()); err == nil {
				streams.conns <- &quicStream{Stream: st, conn: c}
			}
		}
	}()
	var dialled *quic.Conn
	srv := grpc.NewServer(grpc.Creds(rawQUICCreds{}))
	transportv1.RegisterHeartbeatServer(srv, rawBeats{})
	go func() { _ = srv.Serve(streams) }() // returns at Stop
	client, err := h.auth.WorkerCertificate(core.NewWorkerID(), time.Hour)
	if err != nil {
		b.Fatal(err)
	}
	dial := func(ctx context.Context, _ string) (net.Conn, error) {
		c, err := quic.DialAddr(ctx, ln.Addr().String(), &tls.Config{
			MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{client}, RootCAs: h.auth.Pool(), ServerName: "localhost", NextProtos: []string{"raw"},
		}, &quic.Config{})
		if err != nil {
			return nil, err
		}
		dialled = c
		st, err := c.OpenStreamSync(ctx)
		return &quicStream{Stream: st, conn: c}, err
	}
	cc, err := grpc.NewClient("passthrough:///raw", grpc.WithTransportCredentials(quicCreds{}), grpc.WithContextDialer(dial))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cc.Close()
		srv.Stop()
		if dialled != nil {
			_ = dialled.CloseWithError(0, "")
		}
		_ = ln.Close()
	})
	return cc
}

type rawQUICCreds struct{ quicCreds }

func (rawQUICCreds) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, credentials.TLSInfo{State: c.(*quicStream).conn.ConnectionState().TLS}, nil
}

func (c rawQUICCreds) Clone() credentials.TransportCredentials { return c }

// chanListener hands out the connections that it is sent.
type chanListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}
func (l *chanListener) Close() error   { l.once.Do(func() { close(l.done) }); return nil }
func (l *chanListener) Addr() net.Addr { return l.addr }

// run measures f from n goroutines and reports the median.
func run(b *testing.B, n int, f func(seq uint64) error) {
	for range 100 {
		if err := f(1); err != nil {
			b.Fatal(err)
		}
	}
	var next, bad atomic.Int64
	times := make([][]time.Duration, n)
	var wg sync.WaitGroup
	b.ReportAllocs()
	cpu := cpuTime()
	b.ResetTimer()
	for g := range n {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				start := time.Now()
				if err := f(uint64(i)); err != nil {
					bad.Add(1)
				}
				times[g] = append(times[g], time.Since(start))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	cpu = cpuTime() - cpu
	if bad.Load() != 0 {
		b.Fatalf("%d calls failed", bad.Load())
	}
	all := slices.Concat(times...)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Nanoseconds())/1e3, "p50-us")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	// Both sides together; unlike the rate it hardly depends on what else runs.
	b.ReportMetric(float64(cpu.Nanoseconds())/float64(b.N)/1e3, "cpu-us/call")
}

// body is a beat of about 100 bytes.
func body(w core.WorkerRef, seq uint64) core.Heartbeat {
	h := beat(w, seq)
	h.SentAt = time.Now()
	h.ControlSeq, h.WorkOpen, h.WorkSeq, h.SlotsBusy = 1<<40, true, 1<<40, 4
	return h
}

// BenchmarkUnary compares a unary beat with a unary call of plain grpc-go, alone and
// with 64 in flight, over each wire.
func BenchmarkUnary(b *testing.B) {
	for _, p := range []Protocol{ProtocolH2, ProtocolQUIC} {
		for _, n := range []int{1, 64} {
			name := string(p) + map[int]string{1: "/alone", 64: "/64"}[n]
			h := benchHarness(b, p)
			w, ref := h.registered()
			raw := rawH2
			if p == ProtocolQUIC {
				raw = rawQUIC
			}
			cc := raw(b, h)
			id := ref.ID.String()
			b.Run(name+"/raw", func(b *testing.B) {
				c := transportv1.NewHeartbeatClient(cc)
				run(b, n, func(seq uint64) error {
					var m transportv1.BeatRequest
					beatTo(&m, body(ref, seq), id)
					_, err := c.Beat(context.Background(), &m)
					return err
				})
			})
			b.Run(name+"/ours", func(b *testing.B) {
				run(b, n, func(seq uint64) error { _, err := w.Beat(context.Background(), body(ref, seq)); return err })
			})
		}
	}
}

// BenchmarkStream compares beats on the long-lived stream, 64 not yet answered, with
// messages of a plain grpc-go stream.
func BenchmarkStream(b *testing.B) {
	for _, p := range []Protocol{ProtocolH2, ProtocolQUIC} {
		h := benchHarness(b, p)
		w, ref := h.registered()
		raw := rawH2
		if p == ProtocolQUIC {
			raw = rawQUIC
		}
		cc := raw(b, h)
		id := ref.ID.String()
		b.Run(string(p)+"/raw", func(b *testing.B) {
			s, err := transportv1.NewHeartbeatClient(cc).Stream(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			window := make(chan struct{}, 64)
			go func() {
				for i := range uint64(b.N) {
					window <- struct{}{}
					var m transportv1.BeatRequest
					beatTo(&m, body(ref, i), id)
					if s.Send(&m) != nil {
						return
					}
				}
				_ = s.CloseSend()
			}()
			b.ReportAllocs()
			cpu := cpuTime()
			b.ResetTimer()
			for range b.N {
				if _, err := s.Recv(); err != nil {
					b.Fatal(err)
				}
				<-window
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
			b.ReportMetric(float64((cpuTime()-cpu).Nanoseconds())/float64(b.N)/1e3, "cpu-us/call")
		})
		b.Run(string(p)+"/ours", func(b *testing.B) {
			s, err := w.OpenHeartbeat(context.Background(), nil)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			run(b, 64, func(seq uint64) error { _, err := s.Beat(context.Background(), body(ref, seq+1e9)); return err })
		})
	}
}
