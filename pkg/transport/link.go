package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// channel is what a call belongs to. Calls of different channels never wait for each
// other's lost packets where the protocol allows it.
type channel int

const (
	channelBeat channel = iota
	channelControl
	channelWork
	channels
)

// link is the connections that were made with one certificate. When the worker gets
// the next certificate a new link takes over, and the old one closes once the last
// call on it has ended: no call is dropped, and no connection outlives the
// certificate that it was made with.
type link struct {
	cert    *tls.Certificate // newest at the link's making
	ccs     [channels]*grpc.ClientConn
	closers []func() error // of the client connections, then of what they share
	retired chan struct{}  // closed when a newer link has taken over

	closing  sync.Once
	closeErr error // set by closing

	mu     sync.Mutex // guards the fields below
	refs   int        // calls and streams
	ending bool       // close at refs 0
}

// acquire counts a call, and reports false when the link has been closed.
func (l *link) acquire() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ending && l.refs == 0 {
		return false
	}
	l.refs++
	return true
}

// release counts a call that ended.
func (l *link) release() error {
	l.mu.Lock()
	l.refs--
	last := l.ending && l.refs == 0
	l.mu.Unlock()
	if last {
		return l.close()
	}
	return nil
}

// retire closes the link once nothing uses it.
func (l *link) retire() error {
	l.mu.Lock()
	first := !l.ending
	l.ending = true
	idle := l.refs == 0
	l.mu.Unlock()
	if !first {
		return nil
	}
	close(l.retired)
	if idle {
		return l.close()
	}
	return nil
}

// close closes the connections, once.
func (l *link) close() error {
	l.closing.Do(func() {
		var errs []error
		for _, c := range l.closers {
			errs = append(errs, c())
		}
		l.closeErr = errors.Join(errs...)
	})
	return l.closeErr
}

// newLink makes the client connections of a certificate. They connect when used.
func (w *WorkerConn) newLink() (*link, error) {
	l := &link{cert: w.cfg.Identity.current(), retired: make(chan struct{})}
	if l.cert == nil {
		return nil, core.Errorf("", core.CodeUnauthenticated, "there is no valid certificate: the worker must enrol")
	}
	roots, err := loadRoots(w.cfg.TLSDir)
	if err != nil {
		return nil, err
	}
	if w.cfg.Protocol == ProtocolQUIC {
		return l, w.linkQUIC(l, clientTLS(roots, w.cfg.ServerName, alpnQUIC, w.cfg.Identity.getClientCertificate))
	}
	// Heartbeat and control share one connection, so that 10,000 workers cost as many.
	cc, err := dialH2(w.cfg.Addr, clientTLS(roots, w.cfg.ServerName, "h2", w.cfg.Identity.getClientCertificate), w.cfg.MaxBackoff, w.cfg.Guard, w.rec)
	if err != nil {
		return nil, err
	}
	l.closers = append(l.closers, cc.Close)
	// Work has a connection of its own, so that a beat never queues behind bulk. It
	// connects at the first pull.
	work, err := dialH2(w.cfg.Addr, clientTLS(roots, w.cfg.ServerName, "h2", w.cfg.Identity.getClientCertificate), w.cfg.MaxBackoff, w.cfg.Guard, w.rec)
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	l.closers = append(l.closers, work.Close)
	l.ccs = [channels]*grpc.ClientConn{channelBeat: cc, channelControl: cc, channelWork: work}
	return l, nil
}

// newClientConn makes a gRPC connection over any dialer.
func newClientConn(addr string, creds credentials.TransportCredentials, dial func(context.Context, string) (net.Conn, error), maxBackoff time.Duration, guard *EpochGuard, rec *failureRecord) (*grpc.ClientConn, error) {
	a := answers{guard: guard, rec: rec}
	l := DefaultLimits()
	cc, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(dial),
		grpc.WithConnectParams(clientBackoff(maxBackoff)),
		grpc.WithUnaryInterceptor(a.unary),
		grpc.WithStreamInterceptor(a.stream),
		grpc.WithInitialWindowSize(windowBytes),
		grpc.WithInitialConnWindowSize(connWindowBytes),
		grpc.WithReadBufferSize(clientBuffer),
		grpc.WithWriteBufferSize(clientBuffer),
		grpc.WithSharedWriteBuffer(true),
		grpc.WithMaxHeaderListSize(l.HeaderBytes),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(l.MessageBytes), grpc.MaxCallSendMsgSize(l.MessageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithDisableServiceConfig(),
	)
	return cc, core.Wrap("connect", core.CodeInvalidArgument, err)
}
