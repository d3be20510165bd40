package transport

import (
	"crypto/ecdsa"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/time/rate"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// portTries is how many ports are tried until one is free over TCP and UDP.
const portTries = 32

// listen opens the sockets.
func (s *Server) listen() error {
	_, port, err := net.SplitHostPort(s.cfg.Addr)
	if err != nil {
		return core.Wrap("", core.CodeConfigInvalid, err)
	}
	tries := 1
	if port == "0" && s.cfg.Protocol == ProtocolQUIC {
		tries = portTries
	}
	for range tries {
		if err = s.listenOnce(); err == nil {
			return nil
		}
	}
	return listenError(s.cfg.Addr, err)
}

func (s *Server) listenOnce() error {
	var err error
	if s.tcp, err = net.Listen("tcp", s.cfg.Addr); err != nil {
		return err
	}
	if s.cfg.Protocol != ProtocolQUIC {
		return nil
	}
	if s.udp, err = s.listenQUIC(s.tcp.Addr().String()); err != nil {
		return errors.Join(err, s.tcp.Close())
	}
	return nil
}

// listenError names what is in the way and what to do.
func listenError(addr string, err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return core.Errorf("", core.CodeBusy, "%s is in use by another process: stop it, or set transport.listen_addr to another port: %w", addr, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return core.Errorf("", core.CodeConfigInvalid, "%s is not an address of this machine: set transport.listen_addr: %w", addr, err)
	case errors.Is(err, syscall.EACCES):
		return core.Errorf("", core.CodePermissionDenied, "this user may not listen on %s: choose a port above 1023: %w", addr, err)
	}
	return core.Wrap("", core.CodeUnavailable, err)
}

// serverCerts makes the server's certificate, in memory only, and the next one
// before it ages.
type serverCerts struct {
	a     *Authority
	names []string
	key   *ecdsa.PrivateKey

	mu   sync.Mutex // guards cert; held while one is signed, 50 us twice in 90 days
	cert *tls.Certificate
}

func newServerCerts(a *Authority, names []string) (*serverCerts, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	c := &serverCerts{a: a, names: names, key: key}
	_, err = c.get(nil)
	return c, err
}

// get implements [tls.Config.GetCertificate].
func (c *serverCerts) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cert != nil && c.a.iss.now().Before(renewAt(c.cert.Leaf)) {
		return c.cert, nil
	}
	leaf, err := c.a.iss.server(c.names, c.key.Public())
	if err != nil {
		return nil, err
	}
	c.cert = &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: c.key, Leaf: leaf}
	return c.cert, nil
}

// acceptLimiter drops the connections of an address that opens too many too fast,
// before they cost a handshake.
type acceptLimiter struct {
	net.Listener
	s     *Server
	limit *addrLimiter
}

func newAcceptLimiter(l net.Listener, s *Server) *acceptLimiter {
	return &acceptLimiter{Listener: l, s: s, limit: newAddrLimiter(s.cfg.Limits.AcceptPerSecond, s.cfg.Limits.AcceptBurst)}
}

// Accept implements [net.Listener].
func (a *acceptLimiter) Accept() (net.Conn, error) {
	for {
		c, err := a.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a.limit.allow(c.RemoteAddr()) {
			return c, nil
		}
		if err := c.Close(); err != nil {
			a.s.log.Debug("close of a dropped connection", "err", err)
		}
	}
}

// maxAddrs bounds how many addresses an [addrLimiter] tells apart. The ones beyond
// share one allowance, so that an attacker with many addresses gains nothing but
// the memory stays bounded.
const maxAddrs = 4096

// addrLimiter gives every address an allowance.
type addrLimiter struct {
	rate  rate.Limit
	burst int

	mu     sync.Mutex // guards the fields below
	addrs  map[string]*rate.Limiter
	others *rate.Limiter
	swept  time.Time // when addrs was last searched for idle entries
}

func newAddrLimiter(perSecond float64, burst int) *addrLimiter {
	l := rate.Limit(perSecond)
	return &addrLimiter{rate: l, burst: burst, addrs: map[string]*rate.Limiter{}, others: rate.NewLimiter(l, burst)}
}

// allow takes one out of an address's allowance, if there is one left.
func (a *addrLimiter) allow(addr net.Addr) bool {
	return a.allowHost(hostOf(addr.String()))
}

func (a *addrLimiter) allowHost(host string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	l, ok := a.addrs[host]
	if !ok {
		// A search costs as much as a thousand answers, so it is not made for each of
		// an attacker's addresses.
		if now := time.Now(); len(a.addrs) >= maxAddrs && now.Sub(a.swept) > time.Second {
			a.sweep(now)
		}
		if len(a.addrs) >= maxAddrs {
			return a.others.Allow()
		}
		l = rate.NewLimiter(a.rate, a.burst)
		a.addrs[host] = l
	}
	return l.Allow()
}

// sweep forgets the addresses whose allowance is whole again, which is what a new
// entry would hold.
func (a *addrLimiter) sweep(now time.Time) {
	a.swept = now
	for host, l := range a.addrs {
		if l.TokensAt(now) >= float64(a.burst) {
			delete(a.addrs, host)
		}
	}
}
