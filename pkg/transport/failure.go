package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc/credentials"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func isEOF(err error) bool { return errors.Is(err, io.EOF) }

// failureRecord remembers why the last attempt to connect failed. gRPC knows it as
// text only and calls all of it unavailable.
type failureRecord struct {
	addr string

	mu  sync.Mutex // guards err
	err error      // nil: the last attempt succeeded
}

func (r *failureRecord) set(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

func (r *failureRecord) get() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

// tcpTimeout is how long one attempt to connect may take. Attempts are repeated for
// ever, and a new one finds a network that is back sooner than an old one does, whose
// repetitions grow apart.
const tcpTimeout = 2 * time.Second

// dialTCP connects and remembers why it could not.
func (r *failureRecord) dialTCP(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: tcpTimeout}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		r.set(dialError(addr, err))
	}
	return c, err
}

// dialError says in one sentence why nobody could be reached.
func dialError(addr string, err error) error {
	const op = "connect"
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return core.Errorf(op, core.CodeUnavailable, "the host of %s is unknown: check coordinator_addr: %w", addr, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return core.Errorf(op, core.CodeUnavailable, "nobody listens on %s: the coordinator is not running or has another address: %w", addr, err)
	}
	return core.Wrap(op, core.CodeUnavailable, err)
}

// handshakeError says why the two sides do not trust each other. All of it is a
// refusal: the same attempt fails again until somebody changes something.
func handshakeError(addr string, err error) error {
	const op = "connect"
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		record   tls.RecordHeaderError
	)
	switch {
	case errors.As(err, &unknown):
		return core.Errorf(op, core.CodeUnauthenticated, "the coordinator at %s shows a certificate of another CA than ours: copy its ca.pem into transport.tls_dir: %w", addr, err)
	case errors.As(err, &hostname):
		return core.Errorf(op, core.CodeUnauthenticated, "the certificate of the coordinator at %s is for another name: set coordinator_domain here or transport.server_names there: %w", addr, err)
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return core.Errorf(op, core.CodeUnauthenticated, "the certificate of the coordinator at %s is not valid now: check the clock of both machines: %w", addr, err)
	case errors.As(err, &record):
		return core.Errorf(op, core.CodeVersionMismatch, "what listens on %s does not speak TLS, it is no coordinator: %w", addr, err)
	case isAlert(err):
		return alertError(addr, err)
	case errors.As(err, &invalid):
		return core.Errorf(op, core.CodeUnauthenticated, "the certificate of the coordinator at %s cannot be used: %w", addr, err)
	}
	return core.Wrap(op, core.CodeUnavailable, err)
}

// isAlert reports whether the other side ended the handshake with a TLS alert.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

// alertError reads the other side's alert. Its type is unexported, so the sentence
// is chosen by its text; the code is the same for all but the protocol's.
func alertError(addr string, err error) error {
	const op = "connect"
	text := err.Error()
	switch {
	case strings.Contains(text, "expired certificate"):
		return core.Errorf(op, core.CodeUnauthenticated, "the coordinator at %s says that our certificate is not valid now: check the clock of both machines: %w", addr, err)
	case strings.Contains(text, "unknown certificate authority"):
		return core.Errorf(op, core.CodeUnauthenticated, "the coordinator at %s does not know the CA of our certificate: enrol again: %w", addr, err)
	case strings.Contains(text, "protocol"):
		return core.Errorf(op, core.CodeVersionMismatch, "the coordinator at %s speaks no protocol of ours: %w", addr, err)
	}
	return core.Errorf(op, core.CodeUnauthenticated, "the coordinator at %s refused our certificate: %w", addr, err)
}

// tcpCreds do a client's handshake over TCP and remember why it failed.
type tcpCreds struct {
	cfg *tls.Config
	rec *failureRecord
}

// ClientHandshake implements [credentials.TransportCredentials].
func (c tcpCreds) ClientHandshake(ctx context.Context, _ string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn := tls.Client(raw, c.cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		c.rec.set(handshakeError(c.rec.addr, err))
		return nil, nil, errors.Join(err, conn.Close())
	}
	info := credentials.TLSInfo{
		State:          conn.ConnectionState(),
		CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}
	return &verdictConn{Conn: conn, rec: c.rec, verdict: make(chan struct{})}, info, nil
}

// ServerHandshake implements [credentials.TransportCredentials]; a client accepts none.
func (tcpCreds) ServerHandshake(net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("client credentials cannot accept")
}

// Info implements [credentials.TransportCredentials].
func (c tcpCreds) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls", ServerName: c.cfg.ServerName}
}

// Clone implements [credentials.TransportCredentials].
func (c tcpCreds) Clone() credentials.TransportCredentials { return c }

// OverrideServerName implements [credentials.TransportCredentials]; the name is
// configured.
func (tcpCreds) OverrideServerName(string) error { return nil }

// verdictConn waits for the server's verdict. In TLS 1.3 a client has finished its
// handshake before the server has looked at the client's certificate, so a refusal
// arrives with the first read, and an acceptance as well.
type verdictConn struct {
	net.Conn
	rec     *failureRecord
	settled bool          // touched by the one reading goroutine only
	verdict chan struct{} // closed with settled
}

// Read implements [net.Conn].
func (c *verdictConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.settled || (n == 0 && err == nil) {
		return n, err
	}
	switch {
	case n > 0:
		c.rec.set(nil)
	case isAlert(err):
		c.rec.set(handshakeError(c.rec.addr, err))
	}
	c.settled = true
	close(c.verdict)
	return n, err
}

// Write implements [net.Conn]. A server that refused has closed the connection, which
// a write may notice before the refusal is read; it lets the reader say why.
func (c *verdictConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err == nil {
		return n, nil
	}
	wait := time.NewTimer(time.Second)
	defer wait.Stop()
	select {
	case <-c.verdict:
	case <-wait.C:
	}
	return n, err
}
