package transport

import (
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// quicStreams is how many streams one connection may have open: the channels of a
// worker, and those of the connection that takes over from it.
const quicStreams = 16

// quicListener accepts QUIC streams as connections for gRPC. Experimental.
type quicListener struct {
	s     *Server
	udp   *net.UDPConn
	tr    *quic.Transport
	ln    *quic.Listener
	conns chan net.Conn

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

var _ net.Listener = (*quicListener)(nil)

// listenQUIC opens the UDP socket on an address whose TCP port is held already.
func (s *Server) listenQUIC(addr string) (*quicListener, error) {
	key, err := resetKey(s.cfg.Authority.dir)
	if err != nil {
		return nil, err
	}
	ua, err := net.ResolveUDPAddr("udp", addr)
	if err != nil {
		return nil, err
	}
	udp, err := net.ListenUDP("udp", ua)
	if err != nil {
		return nil, err
	}
	limit := newAddrLimiter(s.cfg.Limits.AcceptPerSecond, s.cfg.Limits.AcceptBurst)
	l := &quicListener{s: s, udp: udp, conns: make(chan net.Conn)}
	l.tr = &quic.Transport{
		Conn:              udp,
		StatelessResetKey: key,
		// An address that opens too many has to prove that it is there, which costs an
		// attacker with forged ones everything and the rest one round trip.
		VerifySourceAddress: func(a net.Addr) bool { return !limit.allow(a) },
	}
	conf := quicConfig(quicStreams)
	conf.HandshakeIdleTimeout = s.cfg.Limits.Handshake
	if l.ln, err = l.tr.Listen(s.tlsConfig(alpnQUIC), conf); err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.wg.Go(l.accept)
	return l, nil
}

// resetKey returns the key with which a restarted coordinator tells the workers of
// its last life at once that their connections are gone. It is made once.
func resetKey(dir string) (*quic.StatelessResetKey, error) {
	path := filepath.Join(dir, fileReset)
	var key quic.StatelessResetKey
	err := withLock(dir, func() error {
		b, err := readPrivate(path)
		if errors.Is(err, fs.ErrNotExist) {
			b = make([]byte, len(key))
			rand.Read(b) // never fails: crypto/rand ends the process instead
			err = publish(path, b, modePrivate)
		}
		if err != nil {
			return err
		}
		if len(b) != len(key) {
			return badFile(path, "is not a key of %d bytes: remove it to get a new one", len(key))
		}
		copy(key[:], b)
		return nil
	})
	return &key, err
}

// accept takes connections until the listener closes.
func (l *quicListener) accept() {
	for {
		c, err := l.ln.Accept(l.ctx)
		if err != nil {
			return
		}
		l.wg.Go(func() { l.serve(c) })
	}
}

// serve takes the streams of one connection, whose right to be here is checked once
// and bounded by its certificate.
func (l *quicListener) serve(c *quic.Conn) {
	info := l.s.newConnInfo(c.ConnectionState().TLS, c.RemoteAddr(), true)
	defer info.cancel(net.ErrClosed)
	refuse := func(err error) {
		l.s.log.Info("connection refused", "addr", info.caller.Addr, "err", err)
		// The peer learns the reason or is gone; nobody else wants to know.
		_ = c.CloseWithError(quicRefused, err.Error())
	}
	if info.caller.Role == RoleNone && info.refusal == nil {
		refuse(core.Errorf("", core.CodeUnauthenticated, "a client certificate is needed"))
		return
	}
	info.close = func() { refuse(context.Cause(info.ctx)) }
	if err := l.s.conns.add(info); err != nil {
		refuse(err)
		return
	}
	defer l.s.conns.remove(info)
	timer := time.AfterFunc(l.s.lifeOf(info), func() { info.end(errExpired) })
	defer timer.Stop()
	for {
		st, err := c.AcceptStream(l.ctx)
		if err != nil {
			return
		}
		select {
		case l.conns <- &quicStream{Stream: st, conn: c, info: info}:
		case <-l.ctx.Done():
			return
		}
	}
}

// Accept implements [net.Listener].
func (l *quicListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. Connections go on until shutdown.
func (l *quicListener) Close() error {
	l.cancel()
	return nil
}

// Addr implements [net.Listener].
func (l *quicListener) Addr() net.Addr { return l.udp.LocalAddr() }

// shutdown ends every connection, telling the peers, and releases the socket.
func (l *quicListener) shutdown() {
	l.cancel()
	err := errors.Join(l.ln.Close(), l.tr.Close(), l.udp.Close())
	l.wg.Wait()
	if err != nil && !errors.Is(err, net.ErrClosed) {
		l.s.log.Warn("close of the QUIC socket", "err", err)
	}
}
