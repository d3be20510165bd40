package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/metadata"

	"github.com/rollout-substrate/rollout/internal/grpcerr"
	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// DefaultServerName is the name that a coordinator's certificate is checked for
// unless another one is configured.
const DefaultServerName = "localhost"

// ClientConfig says how a worker reaches its coordinator.
type ClientConfig struct {
	// Addr is the coordinator's host:port. Default: [DefaultAddr].
	Addr string
	// ServerName is the name that the coordinator's certificate must carry. Default:
	// [DefaultServerName].
	ServerName string
	// TLSDir is the directory with ca.pem and, to enrol, join.token. Required.
	TLSDir string
	// Protocol is the wire. Default: [ProtocolH2].
	Protocol Protocol
	// Identity is the worker's own. Required.
	Identity *Identity
	// Guard refuses a coordinator that has been replaced. Default: one that has seen
	// nothing.
	Guard *EpochGuard
	// MaxBackoff bounds the random wait between two attempts to connect, which starts
	// below 50 ms; half a heartbeat interval is right. Default: 250 ms.
	MaxBackoff time.Duration
	// Logger takes what the connection has to say. Default: discarded.
	Logger *slog.Logger
}

func (c ClientConfig) withDefaults() ClientConfig {
	setDefault(&c.Addr, DefaultAddr)
	setDefault(&c.ServerName, DefaultServerName)
	setDefault(&c.Protocol, ProtocolH2)
	setDefault(&c.MaxBackoff, core.DefaultHeartbeatInterval/2)
	if c.Guard == nil {
		c.Guard = NewEpochGuard(0)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// validate refuses what cannot be dialled at all.
func (c ClientConfig) validate() error {
	if err := checkAddr(c.Addr); err != nil {
		return core.Errorf("", core.CodeConfigInvalid, "coordinator_addr: %w", err)
	}
	if c.Protocol != ProtocolH2 && c.Protocol != ProtocolQUIC {
		return core.Errorf("", core.CodeConfigInvalid, "transport.protocol: %q is no protocol, use \"h2\" or \"quic\"", c.Protocol)
	}
	if c.Identity == nil || c.TLSDir == "" {
		return core.Errorf("", core.CodeInvalidArgument, "a worker needs an identity and a TLS directory")
	}
	return nil
}

// loadRoots reads the CA that a coordinator is checked against. While the file is
// not there yet it is [core.CodeUnavailable]: a coordinator makes it at its first
// start.
func loadRoots(dir string) (*x509.CertPool, error) {
	path := filepath.Join(dir, FileCA)
	data, err := readPublic(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, core.Errorf("", core.CodeUnavailable, "%s is not there yet: the coordinator makes it at its first start, or copy it from the coordinator's machine", path)
	}
	if err != nil {
		return nil, fileError("read CA", err)
	}
	certs, err := parseCerts(path, data)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	for _, c := range certs {
		pool.AddCert(c)
	}
	return pool, nil
}

// loadToken reads the join token, under the rule of [loadRoots].
func loadToken(dir string) (string, error) {
	path := filepath.Join(dir, FileToken)
	b, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", core.Errorf("", core.CodeUnavailable, "%s is not there yet: the coordinator makes it at its first start, or make one with rollout token new", path)
	}
	if err != nil {
		return "", fileError("read join token", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// clientTLS is what a client holds the coordinator to.
func clientTLS(roots *x509.CertPool, name, proto string, cert func(*tls.CertificateRequestInfo) (*tls.Certificate, error)) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		RootCAs:                roots,
		ServerName:             name,
		NextProtos:             []string{proto},
		GetClientCertificate:   cert,
		SessionTicketsDisabled: true,
	}
}

// dialH2 makes a client connection over TCP. It connects when first used. The wait
// between two attempts is random between 0 and a bound that grows from 50 ms to
// maxBackoff: gRPC's jitter of 1 spreads a delay d over 0 to 2 d.
func dialH2(addr string, cfg *tls.Config, maxBackoff time.Duration, guard *EpochGuard, rec *failureRecord) (*grpc.ClientConn, error) {
	return newClientConn(addr, tcpCreds{cfg: cfg, rec: rec}, rec.dialTCP, maxBackoff, guard, rec)
}

// handshakePatience is how long a client waits for a coordinator that is busy with
// the handshakes of everybody else.
const handshakePatience = 20 * time.Second

func clientBackoff(maxBackoff time.Duration) grpc.ConnectParams {
	b := backoff.Config{BaseDelay: 25 * time.Millisecond, Multiplier: 1.6, Jitter: 1, MaxDelay: maxBackoff / 2}
	b.BaseDelay = min(b.BaseDelay, b.MaxDelay)
	return grpc.ConnectParams{Backoff: b, MinConnectTimeout: handshakePatience}
}

// answers checks what comes back on every call of a client connection: its epoch,
// and when there is none, why.
type answers struct {
	guard *EpochGuard
	rec   *failureRecord
}

// unary is the interceptor of every unary call.
func (a answers) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var md metadata.MD
	if err := next(ctx, method, req, reply, cc, append(opts, grpc.Header(&md))...); err != nil {
		return a.refuse(md, err)
	}
	if beat, ok := reply.(*transportv1.BeatResponse); ok {
		return a.guard.observe(beat.GetCoordinatorEpoch())
	}
	return a.guard.observeHeader(md)
}

// refuse returns what the caller learns of a call that failed: that the coordinator
// which answered has been replaced, before anything that it says.
func (a answers) refuse(md metadata.MD, err error) error {
	if answered(md) {
		if old := a.guard.observeHeader(md); old != nil {
			return old
		}
	}
	return a.explain(err)
}

// stream is the interceptor of every streaming call.
func (a answers) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	cs, err := next(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, a.explain(err)
	}
	return &answerStream{ClientStream: cs, a: a}, nil
}

// explain turns a status into the error behind it. gRPC reports every failure to
// connect as unavailable; the record knows whether it was a refusal.
func (a answers) explain(err error) error {
	err = grpcerr.FromStatus("", err)
	why := a.rec.get()
	switch code := core.CodeOf(err); {
	case why == nil:
		return err
	case code == core.CodeUnavailable, code == core.CodeDeadlineExceeded && IsRefused(why):
		return why
	case code == core.CodeDeadlineExceeded:
		return core.Errorf("", code, "no answer in time: %v", why)
	}
	return err
}

// answerStream checks the answers of one stream.
type answerStream struct {
	grpc.ClientStream
	a     answers
	epoch uint64 // of the coordinator; 0 before its first message; touched by the receiving goroutine only
}

// RecvMsg refuses what a coordinator says that has been replaced, be it since the
// stream was opened.
func (s *answerStream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if isEOF(err) {
		return err
	}
	if s.epoch == 0 {
		md, herr := s.Header()
		switch {
		case err == nil && herr != nil:
			return s.a.explain(herr)
		case err != nil && (herr != nil || !answered(md)):
			return s.a.explain(err)
		}
		if s.epoch, herr = epochOf(md); herr != nil {
			return herr
		}
	}
	if old := s.a.guard.observe(s.epoch); old != nil || err == nil {
		return old
	}
	return s.a.explain(err)
}

// SendMsg keeps io.EOF, which means that RecvMsg has the reason.
func (s *answerStream) SendMsg(m any) error {
	err := s.ClientStream.SendMsg(m)
	if err == nil || isEOF(err) {
		return err
	}
	return s.a.explain(err)
}
