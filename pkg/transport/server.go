package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"

	"github.com/rollout-substrate/rollout/pkg/core"
	adminv1 "github.com/rollout-substrate/rollout/proto/rollout/admin/v1"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// Services are what a [Server] puts on the wire. All are required but those of work,
// which a coordinator without jobs leaves out: their methods do not exist then.
type Services struct {
	Registry core.Registry
	Beats    core.Beats
	Control  core.Control
	Enroller core.Enroller
	Admin    core.Admin

	Work    core.Work        // hands items to workers
	Objects core.ObjectStore // payloads and results too large for a message
	Jobs    core.Jobs        // the operator's side of work
}

// Server serves a coordinator's contracts. Make one with [NewServer], which opens
// its sockets, and give it to Run once.
type Server struct {
	cfg   Config
	log   *slog.Logger
	tcp   net.Listener
	udp   *quicListener // nil unless the protocol is QUIC
	grpc  *grpc.Server
	alive *health.Server
	conns *connTable
	certs *serverCerts
	gate  *handshakeGate

	// ctx ends when the server stops; every connection's context is its child.
	ctx      context.Context
	cancel   context.CancelCauseFunc
	calls    *inflight     // heartbeat streams excepted
	refusals *rate.Limiter // of log lines about refused calls
}

// errStopping is what callers get while the server shuts down.
var errStopping = core.Errorf("", core.CodeUnavailable, "the coordinator is stopping")

// NewServer opens the sockets and returns a server that answers once Run is called;
// connections wait until then. An address in use is [core.CodeBusy], a bad
// configuration [core.CodeConfigInvalid] with every violation.
func NewServer(cfg Config, svc Services) (*Server, error) {
	const op = "start server"
	if err := cfg.Validate().Err(op); err != nil {
		return nil, err
	}
	if svc.Registry == nil || svc.Beats == nil || svc.Control == nil || svc.Enroller == nil || svc.Admin == nil {
		return nil, core.Errorf(op, core.CodeInvalidArgument, "a service is missing: %+v", svc)
	}
	cfg = cfg.withDefaults()
	s := &Server{cfg: cfg, log: cfg.Logger, conns: newConnTable(cfg.Limits, cfg.Denied), alive: health.NewServer(),
		gate: newHandshakeGate(cfg.Limits.Handshake), calls: newInflight(), refusals: rate.NewLimiter(10, 100)}
	var err error
	if s.certs, err = newServerCerts(cfg.Authority, cfg.ServerNames); err != nil {
		return nil, core.Wrap(op, core.CodeInternal, err)
	}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	s.register(svc)
	if err := s.listen(); err != nil {
		s.cancel(err)
		return nil, core.WithOp(op, err)
	}
	return s, nil
}

// register builds the gRPC server.
//
// The windows are fixed, which turns off the bandwidth probes: they cost a third of
// the CPU of small periodic calls. Buffers are small and the write buffers shared,
// because 10,000 workers hold one connection each and use it twice a second.
func (s *Server) register(svc Services) {
	l := s.cfg.Limits
	g := &guard{s: s, planted: s.cfg.planted, epoch: metadata.Pairs(epochHeader, strconv.FormatUint(s.cfg.Epoch, 10))}
	s.grpc = grpc.NewServer(
		grpc.Creds(serverCreds{s: s, cfg: s.tlsConfig("h2")}),
		grpc.ConnectionTimeout(l.Handshake),
		grpc.MaxRecvMsgSize(l.MessageBytes),
		grpc.MaxSendMsgSize(l.MessageBytes),
		grpc.MaxHeaderListSize(l.HeaderBytes),
		grpc.MaxConcurrentStreams(l.Streams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: l.KeepaliveMin, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 2 * time.Minute, Timeout: 20 * time.Second}),
		grpc.InitialWindowSize(windowBytes),
		grpc.InitialConnWindowSize(connWindowBytes),
		grpc.ReadBufferSize(0), // TLS and QUIC hold what arrived; a second copy costs 4 KiB a worker
		grpc.WriteBufferSize(bufferBytes),
		grpc.SharedWriteBuffer(true),
		grpc.WaitForHandlers(true),
		grpc.UnaryInterceptor(g.unary),
		grpc.StreamInterceptor(g.stream),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error {
			return core.Errorf("", core.CodeUnsupported, "there is no such method")
		}),
	)
	transportv1.RegisterRegistryServer(s.grpc, &registryService{s: s, registry: svc.Registry, enroller: svc.Enroller, limit: newAddrLimiter(l.EnrolPerSecond, int(max(1, l.EnrolPerSecond)))})
	transportv1.RegisterHeartbeatServer(s.grpc, &heartbeatService{s: s, beats: svc.Beats})
	transportv1.RegisterControlServer(s.grpc, &controlService{control: svc.Control})
	adminv1.RegisterAdminServer(s.grpc, &adminService{admin: svc.Admin})
	if svc.Work != nil {
		transportv1.RegisterWorkServer(s.grpc, &workService{work: svc.Work})
	}
	if svc.Objects != nil {
		transportv1.RegisterBlobServer(s.grpc, &blobService{objects: svc.Objects})
	}
	if svc.Jobs != nil {
		adminv1.RegisterJobsServer(s.grpc, &jobsService{jobs: svc.Jobs})
	}
	healthv1.RegisterHealthServer(s.grpc, s.alive)
	reflection.Register(s.grpc)
}

// flushTime is how long the answers of the last calls have to leave the machine.
const flushTime = 250 * time.Millisecond

const (
	windowBytes     = 1 << 20  // of one stream: a whole message fits
	connWindowBytes = 4 << 20  // of one connection
	bufferBytes     = 4 << 10  // gRPC's own write buffers, shared by all connections
	clientBuffer    = 16 << 10 // read and write buffers of a client, which has few connections
)

// tlsConfig is what every handshake is held to.
func (s *Server) tlsConfig(proto string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{proto},
		ClientAuth:             tls.VerifyClientCertIfGiven,
		ClientCAs:              s.cfg.Authority.Pool(),
		GetConfigForClient:     s.gate.enter,
		GetCertificate:         s.certs.get,
		SessionTicketsDisabled: true, // a resumed session would carry an old verdict
		Time:                   s.now,
		VerifyConnection: func(cs tls.ConnectionState) error {
			if len(cs.PeerCertificates) > 0 && s.conns.isDenied(serialText(cs.PeerCertificates[0].SerialNumber)) {
				return errDenied
			}
			return nil
		},
	}
}

// Addr returns host:port of the server, with the port that was picked.
func (s *Server) Addr() string { return s.tcp.Addr().String() }

// Connections returns how many connections are open.
func (s *Server) Connections() int { return s.conns.count() }

// Deny refuses a certificate from now on, by its serial in lower-case hex, and ends
// the connections that show it. It lasts as long as the server; a coordinator keeps
// the list and gives it to the next one in [Config.Denied].
func (s *Server) Deny(serial string) {
	for _, c := range s.conns.deny(serial) {
		c.cancel(errDenied)
		time.AfterFunc(expiryGrace, c.close)
	}
}

// Run serves until ctx ends and returns nil after an ordered shutdown, else why
// serving failed. The order: new calls are refused, streams end, calls in flight
// finish within [Limits.Drain], connections close.
func (s *Server) Run(ctx context.Context) error {
	s.alive.SetServingStatus("", healthv1.HealthCheckResponse_SERVING)
	if s.cfg.Protocol == ProtocolQUIC {
		s.log.Warn("EXPERIMENTAL: workers are served over QUIC", "addr", s.Addr())
	}
	listeners := []net.Listener{newAcceptLimiter(s.tcp, s)}
	if s.udp != nil {
		listeners = append(listeners, s.udp)
	}
	failed := make(chan error, len(listeners))
	var wg sync.WaitGroup
	for _, l := range listeners {
		wg.Go(func() { failed <- s.grpc.Serve(l) })
	}
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	s.shutdown()
	wg.Wait()
	if err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return core.Wrap("serve", core.CodeUnavailable, err)
	}
	return nil
}

// Close releases the sockets of a server that was never run. After Run it does
// nothing.
func (s *Server) Close() error {
	s.shutdown()
	return nil
}

// shutdown is the ordered end. Heartbeat streams are ended by Stop, with the
// connections: their workers are no longer watched.
func (s *Server) shutdown() {
	idle := s.calls.drain()
	s.alive.Shutdown()
	s.cancel(errStopping)
	// GracefulStop tells every peer to start nothing new; it does not return while a
	// stream is open, so it gets a goroutine that Stop ends.
	graceful := make(chan struct{})
	go func() { defer close(graceful); s.grpc.GracefulStop() }()
	timer := time.NewTimer(s.cfg.Limits.Drain)
	defer timer.Stop()
	select {
	case <-idle:
	case <-timer.C:
		s.log.Warn("calls in flight were cut off", "after", s.cfg.Limits.Drain)
	}
	// The last answers are on their way to the sockets, which Stop would cut off.
	// Heartbeat streams end with their next beat, or with Stop.
	flush := time.NewTimer(flushTime)
	defer flush.Stop()
	select {
	case <-graceful:
	case <-flush.C:
	}
	s.grpc.Stop()
	<-graceful
	<-idle
	if s.udp != nil {
		s.udp.shutdown()
	}
	// Serve closes the listener it was given; one that was never served is closed here.
	_ = s.tcp.Close()
}
