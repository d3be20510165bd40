package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	// strangerBytes is how much a connection without a certificate may send: one enrolment of 4 KiB
	// with headers fits, a body of megabytes is cut before it is buffered.
	strangerBytes = 64 << 10
	// expiryGrace is how long a connection outlives its certificate, so that the
	// refusal of the next message reaches the peer before the connection ends.
	expiryGrace = 250 * time.Millisecond
)

// connInfo is what the server knows of one connection. It is the connection's
// AuthInfo, so every call finds it without a look-up and without an allocation.
type connInfo struct {
	credentials.CommonAuthInfo
	caller  Caller // Role is RoleNone when no certificate was shown
	refusal error  // why the certificate shown names nobody; nil: it names caller
	quic    bool   // the connection is a QUIC stream
	worker  *workerState

	// ctx ends with the connection's right to be here: at the certificate's expiry,
	// when it is denied, and when the server stops.
	ctx    context.Context
	cancel context.CancelCauseFunc
	close  func() // ends the connection with everything on it
}

// AuthType implements [credentials.AuthInfo].
func (*connInfo) AuthType() string { return "tls" }

// connOf returns what is known of the connection that a call came over, nil outside
// a call of this package's server.
func connOf(ctx context.Context) *connInfo {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return nil
	}
	info, _ := p.AuthInfo.(*connInfo)
	return info
}

var errExpired = core.Errorf("", core.CodeUnauthenticated, "the certificate has expired: enrol again")

var errDenied = core.Errorf("", core.CodeUnauthenticated, "the certificate has been denied")

// check refuses a caller whose certificate is no longer good.
func (c *connInfo) check(now time.Time) error {
	if !now.Before(c.caller.NotAfter) {
		return errExpired
	}
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	return nil
}

// newConnInfo reads a finished handshake.
func (s *Server) newConnInfo(state tls.ConnectionState, addr net.Addr, quic bool) *connInfo {
	info := &connInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, quic: quic}
	if len(state.PeerCertificates) > 0 {
		info.caller, info.refusal = callerOf(state.PeerCertificates[0])
	}
	info.caller.Addr = addr.String()
	info.ctx, info.cancel = context.WithCancelCause(s.ctx)
	return info
}

// serverCreds finish the handshakes of the connections that gRPC accepts: TLS on
// TCP, nothing on a QUIC stream, whose connection has done it already.
type serverCreds struct {
	s   *Server
	cfg *tls.Config
}

// ServerHandshake implements [credentials.TransportCredentials]. gRPC has put the
// handshake's deadline on raw.
func (c serverCreds) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if q, ok := raw.(*quicStream); ok {
		return q, q.info, nil
	}
	gated := &gatedConn{Conn: raw, gate: c.s.gate}
	conn := tls.Server(gated, c.cfg)
	err := conn.Handshake()
	gated.leave()
	if err != nil {
		c.s.log.Debug("handshake refused", "addr", raw.RemoteAddr().String(), "err", err)
		return nil, nil, err
	}
	if conn.ConnectionState().NegotiatedProtocol != "h2" {
		return nil, nil, errors.Join(errors.New("the peer does not speak HTTP/2"), conn.Close())
	}
	info := c.s.newConnInfo(conn.ConnectionState(), raw.RemoteAddr(), false)
	tracked, err := c.s.track(conn, info)
	if err != nil {
		return nil, nil, errors.Join(err, conn.Close())
	}
	return tracked, info, nil
}

// ClientHandshake implements [credentials.TransportCredentials]; a server makes none.
func (serverCreds) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("server credentials cannot dial")
}

// Info implements [credentials.TransportCredentials].
func (serverCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}

// Clone implements [credentials.TransportCredentials].
func (c serverCreds) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements [credentials.TransportCredentials]; a server has
// nobody's name to check.
func (serverCreds) OverrideServerName(string) error { return nil }

// trackedConn is an accepted connection whose life is bounded.
type trackedConn struct {
	net.Conn
	s      *Server
	info   *connInfo
	left   atomic.Int64 // bytes that a stranger may still send
	timer  *time.Timer
	closed atomic.Bool
}

// track bounds a connection's life by its certificate's and counts it. It refuses
// one too many.
func (s *Server) track(conn net.Conn, info *connInfo) (*trackedConn, error) {
	t := &trackedConn{Conn: conn, s: s, info: info}
	t.left.Store(strangerBytes)
	// The peer learns it from the broken connection; there is nobody to tell of an
	// error in closing one.
	info.close = func() { _ = t.Conn.Close() }
	if err := s.conns.add(info); err != nil {
		s.log.Warn("connection refused", "addr", info.caller.Addr, "err", err)
		info.cancel(err)
		return nil, err
	}
	t.timer = time.AfterFunc(s.lifeOf(info), func() { info.end(errExpired) })
	return t, nil
}

// lifeOf returns how long a connection may last.
func (s *Server) lifeOf(info *connInfo) time.Duration {
	if info.caller.Role == RoleNone {
		return s.cfg.Limits.Stranger
	}
	return info.caller.NotAfter.Sub(s.now()) + expiryGrace
}

// end takes the connection's right away and closes it.
func (c *connInfo) end(cause error) {
	c.cancel(cause)
	c.close()
}

// Read implements [net.Conn] and bounds what a stranger may send.
func (t *trackedConn) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	if t.info.caller.Role == RoleNone && t.left.Add(-int64(n)) < 0 {
		return 0, errors.New("a connection without a certificate sent too much")
	}
	return n, err
}

// Close implements [net.Conn].
func (t *trackedConn) Close() error {
	if t.closed.CompareAndSwap(false, true) {
		t.timer.Stop()
		t.info.cancel(net.ErrClosed)
		t.s.conns.remove(t.info)
	}
	return t.Conn.Close()
}
