package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"google.golang.org/grpc/credentials"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// quicDialer opens streams on one shared QUIC connection, which it makes when it is
// first needed and again when it is lost. Experimental.
type quicDialer struct {
	addr string
	cfg  *tls.Config
	rec  *failureRecord

	// mu is held over the making of a connection: the channels want the same one.
	mu      sync.Mutex
	tr      *quic.Transport
	conn    *quic.Conn
	attempt int // failures in a row
	closed  bool
}

// linkQUIC gives every channel a gRPC connection on a stream of its own.
func (w *WorkerConn) linkQUIC(l *link, cfg *tls.Config) error {
	d := &quicDialer{addr: w.cfg.Addr, cfg: cfg, rec: w.rec}
	for ch := range channels {
		cc, err := newClientConn(w.cfg.Addr, quicCreds{}, d.dial, w.cfg.MaxBackoff, w.cfg.Guard, w.rec)
		if err != nil {
			return errors.Join(err, l.close())
		}
		l.ccs[ch] = cc
		l.closers = append(l.closers, cc.Close)
	}
	l.closers = append(l.closers, d.close)
	return nil
}

// connectTimeout is how long a first handshake may take.
const connectTimeout = 4 * time.Second

// attemptTimeout is how long a handshake may take. After a connection was lost it
// starts short and grows with the failures in a row: what a coordinator that is
// starting again has missed is said again soon, and a slow network gets its time.
func (d *quicDialer) attemptTimeout() time.Duration {
	if d.conn == nil {
		return connectTimeout
	}
	return min(300*time.Millisecond<<min(d.attempt, 4), connectTimeout)
}

// dial opens a stream.
func (d *quicDialer) dial(ctx context.Context, _ string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil, net.ErrClosed
	}
	if d.conn == nil || d.conn.Context().Err() != nil {
		if err := d.connect(ctx); err != nil {
			d.attempt++
			d.rec.set(d.explain(ctx, err))
			return nil, err
		}
		d.attempt = 0
	}
	st, err := d.conn.OpenStream()
	if err != nil {
		d.rec.set(d.explain(ctx, err))
		return nil, err
	}
	return &quicStream{Stream: st, conn: d.conn, rec: &verdictQUIC{d: d}}, nil
}

// connect makes the shared connection.
func (d *quicDialer) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.attemptTimeout())
	defer cancel()
	host, port, err := net.SplitHostPort(d.addr)
	if err != nil {
		return err
	}
	ips, err := net.DefaultResolver.LookupIPAddr(ctx, host)
	if err != nil {
		return err
	}
	n, err := net.DefaultResolver.LookupPort(ctx, "udp", port)
	if err != nil {
		return err
	}
	if d.tr == nil {
		udp, err := net.ListenUDP("udp", nil)
		if err != nil {
			return err
		}
		d.tr = &quic.Transport{Conn: udp}
	}
	conf := quicConfig(-1)
	conf.KeepAlivePeriod = quicKeepAlive
	c, err := d.tr.Dial(ctx, &net.UDPAddr{IP: ips[0].IP, Zone: ips[0].Zone, Port: n}, d.cfg, conf)
	if err != nil {
		return err
	}
	d.conn = c
	return nil
}

// explain says why there is no connection. When nothing came back at all, a look at
// the same port over TCP tells a network that blocks UDP from a machine that is down.
func (d *quicDialer) explain(ctx context.Context, err error) error {
	const op = "connect"
	var (
		idle    *quic.IdleTimeoutError
		shake   *quic.HandshakeTimeoutError
		version *quic.VersionNegotiationError
		app     *quic.ApplicationError
		dns     *net.DNSError
		local   *quic.TransportError
	)
	switch {
	case errors.As(err, &dns):
		return dialError(d.addr, err)
	case errors.As(err, &version):
		return core.Errorf(op, core.CodeVersionMismatch, "the coordinator at %s speaks no QUIC version of ours: %w", d.addr, err)
	case errors.As(err, &app) && app.ErrorCode == quicRefused:
		return core.Errorf(op, core.CodeUnauthenticated, "the coordinator at %s refused the connection: %s", d.addr, clipText(app.ErrorMessage))
	case errors.As(err, &local) && local.ErrorCode.IsCryptoError():
		if alert, remote := quicAlert(err); remote {
			return alertError(d.addr, alert)
		}
		return handshakeError(d.addr, err)
	case !errors.As(err, &idle) && !errors.As(err, &shake) && !errors.Is(err, context.DeadlineExceeded):
		return core.Wrap(op, core.CodeUnavailable, err)
	}
	probe, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	var nd net.Dialer
	c, terr := nd.DialContext(probe, "tcp", d.addr)
	if terr != nil {
		return dialError(d.addr, terr)
	}
	// The connection was a question; it has been answered.
	_ = c.Close()
	return core.Errorf(op, core.CodeUnavailable, "%s answers over TCP but not over UDP: the network blocks UDP, or the coordinator does not run with transport.protocol = \"quic\"", d.addr)
}

// close ends the connection and releases the socket.
func (d *quicDialer) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.closed = true
	var errs []error
	if d.conn != nil {
		errs = append(errs, d.conn.CloseWithError(quicDone, ""))
	}
	if d.tr != nil {
		errs = append(errs, d.tr.Close(), d.tr.Conn.Close())
	}
	return errors.Join(errs...)
}

// verdictQUIC is [verdictConn] for a QUIC stream.
type verdictQUIC struct {
	d       *quicDialer
	settled bool // touched by the one reading goroutine only
}

func (v *verdictQUIC) saw(n int, err error) {
	if v.settled {
		return
	}
	var app *quic.ApplicationError
	_, alert := quicAlert(err)
	switch {
	case n > 0:
		v.settled = true
		v.d.rec.set(nil)
	case alert, errors.As(err, &app) && app.ErrorCode == quicRefused:
		v.settled = true
		v.d.rec.set(v.d.explain(context.Background(), err))
	}
}

// quicCreds take the identity that QUIC's own handshake has established.
type quicCreds struct{}

// ClientHandshake implements [credentials.TransportCredentials].
func (quicCreds) ClientHandshake(_ context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	s, ok := raw.(*quicStream)
	if !ok {
		return nil, nil, errors.New("not a QUIC stream")
	}
	return s, credentials.TLSInfo{
		State:          s.conn.ConnectionState().TLS,
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// ServerHandshake implements [credentials.TransportCredentials]; a client accepts none.
func (quicCreds) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("client credentials cannot accept")
}

// Info implements [credentials.TransportCredentials].
func (quicCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements [credentials.TransportCredentials].
func (c quicCreds) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements [credentials.TransportCredentials]; the name is
// configured.
func (quicCreds) OverrideServerName(string) error { return nil }
