package transport

import (
	"context"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// lossyUDP forwards datagrams between one client and a server, each late by a fixed
// delay and a few not at all. It returns the address to dial.
func lossyUDP(b *testing.B, server string, delay time.Duration, loss float64) string {
	front, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	to, err := net.ResolveUDPAddr("udp", server)
	if err != nil {
		b.Fatal(err)
	}
	back, err := net.DialUDP("udp", nil, to)
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex // guards client
	var client *net.UDPAddr
	carry := func(from *net.UDPConn, send func([]byte)) {
		type late struct {
			at   time.Time
			data []byte
		}
		queue := make(chan late, 4096)
		wg.Go(func() {
			for p := range queue {
				<-time.After(time.Until(p.at))
				send(p.data)
			}
		})
		wg.Go(func() {
			defer close(queue)
			buf := make([]byte, 64<<10)
			for {
				n, addr, err := from.ReadFromUDP(buf)
				if err != nil {
					return
				}
				if from == front {
					mu.Lock()
					client = addr
					mu.Unlock()
				}
				if rand.Float64() < loss {
					continue
				}
				select {
				case queue <- late{time.Now().Add(delay), slices.Clone(buf[:n])}:
				default: // a router drops what it cannot hold
				}
			}
		})
	}
	// What cannot be sent is lost, as on any network.
	carry(front, func(p []byte) { _, _ = back.Write(p) })
	carry(back, func(p []byte) {
		mu.Lock()
		addr := client
		mu.Unlock()
		_, _ = front.WriteToUDP(p, addr)
	})
	b.Cleanup(func() { _ = front.Close(); _ = back.Close(); wg.Wait() })
	return front.LocalAddr().String()
}

// bulk sends one large message on a channel.
func (w *WorkerConn) bulk(ctx context.Context, ch channel, id core.WorkerID, payload []byte) error {
	return w.call("bulk", ch, func(cc grpc.ClientConnInterface) error {
		_, err := transportv1.NewRegistryClient(cc).Register(ctx, &transportv1.RegisterRequest{WorkerId: id.String(), InventoryJson: payload, ProtocolMin: 2})
		return err
	})
}

// BenchmarkBeside beats while bulk goes the same way over a network of 10 ms round
// trip and 1 % loss: with both on one QUIC stream, and each on its own.
func BenchmarkBeside(b *testing.B) {
	for _, c := range []struct {
		name string
		bulk channel
	}{{"one-stream", channelBeat}, {"own-streams", channelControl}} {
		b.Run(c.name, func(b *testing.B) {
			h := benchHarness(b, ProtocolQUIC)
			cfg := h.client(h.issued(core.NewWorkerID(), time.Hour))
			cfg.Addr = lossyUDP(b, h.srv.Addr(), 5*time.Millisecond, 0.01)
			w := h.dial(cfg)
			id := cfg.Identity.ID()
			r, err := w.Register(ctxFor(b), core.Registration{ID: id, ProtocolMax: 1})
			if err != nil {
				b.Fatal(err)
			}
			inv, err := inventoryTo(core.Inventory{Notes: []string{strings.Repeat("x", 200<<10)}})
			if err != nil {
				b.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					for ctx.Err() == nil {
						_ = w.bulk(ctx, c.bulk, id, inv) // ends with ctx; what is measured are the beats
					}
				})
			}
			s, err := w.OpenHeartbeat(context.Background(), nil)
			if err != nil {
				b.Fatal(err)
			}
			var times []time.Duration
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for i := range b.N {
				start := time.Now()
				if _, err := s.Beat(context.Background(), beat(core.WorkerRef{ID: id, Epoch: r.Epoch}, uint64(i+1))); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(start))
				<-tick.C
			}
			cancel()
			wg.Wait()
			if err := s.Close(); err != nil {
				b.Error(err)
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}
