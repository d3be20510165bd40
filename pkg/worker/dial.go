package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// tlsDialer makes links over mutual TLS.
type tlsDialer struct {
	cfg   transport.ClientConfig
	renew chan struct{} // one token: there is a certificate to look after

	// mu guards conn: the connection on which the certificate is renewed.
	mu   sync.Mutex
	conn *transport.WorkerConn
}

// newDialer opens the worker's identity, which makes its key at the first start.
func newDialer(cfg Config, rec record) (*tlsDialer, error) {
	id, err := transport.OpenIdentity(cfg.IdentityDir, rec.ID)
	if err != nil {
		return nil, core.WithOp("worker: identity", err)
	}
	return &tlsDialer{renew: make(chan struct{}, 1), cfg: transport.ClientConfig{
		Addr: cfg.Addr, ServerName: cfg.Domain, TLSDir: cfg.TLSDir, Protocol: cfg.Protocol,
		Identity: id, Guard: transport.NewEpochGuard(rec.CoordinatorEpoch), Logger: cfg.Logger,
	}}, nil
}

func (d *tlsDialer) dial(ctx context.Context) (link, error) {
	if !d.cfg.Identity.Valid() {
		if err := transport.Enrol(ctx, d.cfg); err != nil {
			return nil, err
		}
		d.cfg.Logger.Info("enrolled", "serial", d.cfg.Identity.Serial(), "not_after", d.cfg.Identity.NotAfter())
	}
	conn, err := transport.DialWorker(d.cfg)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.conn = conn
	d.mu.Unlock()
	select {
	case d.renew <- struct{}{}:
	default: // a token is there already
	}
	return &tlsLink{WorkerConn: conn}, nil
}

func (d *tlsDialer) stale(err error) bool { return transport.IsReplaced(err) }

func (d *tlsDialer) coordinatorEpoch() uint64 { return d.cfg.Guard.Epoch() }

// keep renews the certificate at half its life, on the live connection, until ctx
// ends. While renewing fails the worker goes on with the certificate it has.
func (d *tlsDialer) keep(ctx context.Context) {
	const retry = 10 * time.Second
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.renew: // perhaps another certificate
		case <-timer.C:
			d.renewNow(ctx)
		}
		at := d.cfg.Identity.RenewAt()
		switch {
		case at.IsZero():
			timer.Stop()
		default:
			// A renewal that failed is tried again soon, and soon enough for short lives.
			life := time.Until(d.cfg.Identity.NotAfter())
			timer.Reset(max(time.Until(at), min(retry, life/8), time.Millisecond*100))
		}
	}
}

// renewNow renews when it is time to.
func (d *tlsDialer) renewNow(ctx context.Context) {
	d.mu.Lock()
	conn := d.conn
	d.mu.Unlock()
	if at := d.cfg.Identity.RenewAt(); conn == nil || at.IsZero() || time.Now().Before(at) || !d.cfg.Identity.Valid() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, attemptTimeout)
	defer cancel()
	if err := conn.Renew(ctx); err != nil {
		if ctx.Err() == nil && !core.IsCode(err, core.CodeClosed) {
			d.cfg.Logger.Warn("the certificate could not be renewed yet", "not_after", d.cfg.Identity.NotAfter(), "err", err)
		}
		return
	}
	d.cfg.Logger.Info("certificate renewed", "serial", d.cfg.Identity.Serial(), "not_after", d.cfg.Identity.NotAfter())
}

// tlsLink is a [transport.WorkerConn] as a link.
type tlsLink struct{ *transport.WorkerConn }

// Subscribe implements link.
func (l *tlsLink) Subscribe(ctx context.Context, w core.WorkerRef, after uint64, opened func(), send func(core.Command) error) error {
	return l.SubscribeOpen(ctx, w, after, opened, send)
}

// Beats implements link.
func (l *tlsLink) Beats(ctx context.Context) (beatStream, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := l.OpenHeartbeat(ctx, nil)
	if err != nil {
		cancel()
		return nil, err
	}
	return &tlsBeats{stream: stream, ctx: ctx, cancel: cancel, answers: make(chan answer)}, nil
}

// tlsBeats is a [transport.HeartbeatStream] on which a beat does not wait for its
// answer.
type tlsBeats struct {
	stream  *transport.HeartbeatStream
	ctx     context.Context
	cancel  context.CancelFunc
	answers chan answer
	waiting sync.WaitGroup // one for each beat without an answer
}

// Send implements beatStream.
func (b *tlsBeats) Send(h core.Heartbeat) {
	b.waiting.Go(func() {
		ack, err := b.stream.Beat(b.ctx, h)
		select {
		case b.answers <- answer{ack: ack, err: err, final: b.stream.Err() != nil}:
		case <-b.ctx.Done():
		}
	})
}

// Answers implements beatStream.
func (b *tlsBeats) Answers() <-chan answer { return b.answers }

// Close implements beatStream.
func (b *tlsBeats) Close() error {
	b.cancel()
	err := b.stream.Close()
	b.waiting.Wait()
	return errors.Join(err)
}
