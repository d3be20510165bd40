package transport

import (
	"crypto/tls"
	"net"
	"runtime"
	"time"
)

// handshakeGate bounds how many handshakes compute at once. When every worker comes
// back at the same moment, thousands of handshakes that share the processors would
// all finish together, after all have timed out; one after the other they finish in
// time. A slot is held while this side computes and never while it waits for the
// peer, so a peer that says nothing keeps nobody out.
type handshakeGate struct {
	slots   chan struct{}
	timeout time.Duration // for the peer's part, once ours is computed
}

func newHandshakeGate(timeout time.Duration) *handshakeGate {
	return &handshakeGate{slots: make(chan struct{}, 2*runtime.GOMAXPROCS(0)), timeout: timeout}
}

// enter is a [tls.Config.GetConfigForClient]: the peer's first message is here and
// the expensive part begins.
func (g *handshakeGate) enter(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	c, ok := hello.Conn.(*gatedConn)
	if !ok {
		return nil, nil // a QUIC connection
	}
	g.slots <- struct{}{}
	c.held = true
	return nil, c.SetDeadline(time.Now().Add(g.timeout))
}

// gatedConn is the connection under a server's handshake.
type gatedConn struct {
	net.Conn
	gate *handshakeGate
	held bool // touched by the handshake's goroutine only, until it has ended
}

// Write implements [net.Conn]. The first write is our answer to the peer's hello, and
// what follows waits for the peer.
func (c *gatedConn) Write(p []byte) (int, error) {
	c.leave()
	return c.Conn.Write(p)
}

// leave gives the slot back, if there is one.
func (c *gatedConn) leave() {
	if c.held {
		c.held = false
		<-c.gate.slots
	}
}
