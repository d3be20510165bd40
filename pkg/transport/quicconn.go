package transport

import (
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// alpnQUIC is the application protocol of QUIC connections: gRPC's HTTP/2 frames
// directly on QUIC streams.
const alpnQUIC = "rollout-grpc"

const (
	quicIdle      = 5 * time.Second        // silence after which a connection is lost; shorter, and bad networks lose live ones
	quicKeepAlive = 500 * time.Millisecond // between two probes of an otherwise silent client
)

// quicConfig is what both sides hold a connection to. Windows hold a few whole
// messages for each channel and room for all channels at once, so that one that is
// stalled never holds up another.
func quicConfig(streams int64) *quic.Config {
	return &quic.Config{
		HandshakeIdleTimeout:           5 * time.Second,
		MaxIdleTimeout:                 quicIdle,
		InitialStreamReceiveWindow:     1 << 20,
		MaxStreamReceiveWindow:         4 << 20,
		InitialConnectionReceiveWindow: 4 << 20,
		MaxConnectionReceiveWindow:     32 << 20,
		MaxIncomingStreams:             streams,
		MaxIncomingUniStreams:          -1,
	}
}

// quicStream is one QUIC stream as a [net.Conn]. Experimental.
type quicStream struct {
	*quic.Stream
	conn *quic.Conn
	info *connInfo    // of the server's side
	rec  *verdictQUIC // of the client's side

	writing sync.Mutex // held by Write, because quic-go's Close must not meet one
}

var _ net.Conn = (*quicStream)(nil)

// Read implements [net.Conn].
func (s *quicStream) Read(p []byte) (int, error) {
	n, err := s.Stream.Read(p)
	if s.rec != nil {
		s.rec.saw(n, err)
	}
	return n, err
}

// Write implements [net.Conn].
func (s *quicStream) Write(p []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.Stream.Write(p)
}

// Close implements [net.Conn]. A stream's own Close ends one direction only, so the
// other is cancelled. A write that is blocked on flow control is cancelled too.
func (s *quicStream) Close() error {
	s.CancelRead(0)
	if !s.writing.TryLock() {
		s.CancelWrite(0)
		return nil
	}
	defer s.writing.Unlock()
	return s.Stream.Close()
}

// LocalAddr implements [net.Conn].
func (s *quicStream) LocalAddr() net.Addr { return s.conn.LocalAddr() }

// RemoteAddr implements [net.Conn].
func (s *quicStream) RemoteAddr() net.Addr { return s.conn.RemoteAddr() }

// Codes with which a connection is closed.
const (
	quicDone    quic.ApplicationErrorCode = 0 // nothing is wrong
	quicRefused quic.ApplicationErrorCode = 1 // the peer may not be here; the text says why
)

// quicAlert returns the TLS alert that the other side ended a connection with.
func quicAlert(err error) (tls.AlertError, bool) {
	var t *quic.TransportError
	if errors.As(err, &t) && t.Remote && t.ErrorCode.IsCryptoError() {
		return tls.AlertError(t.ErrorCode - 0x100), true
	}
	return 0, false
}
