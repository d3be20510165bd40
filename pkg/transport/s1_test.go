package transport

import (
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/rollout-substrate/rollout/internal/grpcerr"
	"github.com/rollout-substrate/rollout/pkg/core"
	adminv1 "github.com/rollout-substrate/rollout/proto/rollout/admin/v1"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// rawConn dials over a harness's wire with a TLS configuration of the test's own.
func (h *harness) rawConn(cfg *tls.Config) *grpc.ClientConn {
	h.t.Helper()
	rec := &failureRecord{addr: h.srv.Addr()}
	guard := NewEpochGuard(0)
	var cc *grpc.ClientConn
	var err error
	if h.proto == ProtocolQUIC {
		cfg.NextProtos = []string{alpnQUIC}
		d := &quicDialer{addr: h.srv.Addr(), cfg: cfg, rec: rec}
		cc, err = newClientConn(d.addr, quicCreds{}, d.dial, time.Second, guard, rec)
		h.t.Cleanup(func() {
			if err := d.close(); err != nil {
				h.t.Errorf("close: %v", err)
			}
		})
	} else {
		cfg.NextProtos = []string{"h2"}
		cc, err = dialH2(h.srv.Addr(), cfg, time.Second, guard, rec)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = cc.Close() }) // closed by the test already, in some cases
	return cc
}

// showing is a client configuration that presents a certificate; nil presents none.
func (h *harness) showing(c *tls.Certificate) *tls.Config {
	return &tls.Config{
		RootCAs: h.auth.Pool(), ServerName: DefaultServerName, MinVersion: tls.VersionTLS12,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			if c == nil {
				return &tls.Certificate{}, nil
			}
			return c, nil
		},
	}
}

// forge signs a client certificate that tmpl describes.
func (h *harness) forge(a *Authority, tmpl *x509.Certificate, life time.Duration, notBefore time.Time) *tls.Certificate {
	h.t.Helper()
	key, err := newKey()
	if err != nil {
		h.t.Fatal(err)
	}
	iss := a.iss
	if !notBefore.IsZero() {
		iss.now = func() time.Time { return notBefore.Add(backdate) }
	}
	c, err := iss.issue(tmpl, key.Public(), life)
	if err != nil {
		h.t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}
}

// worker describes a proper worker certificate.
func workerTemplate(run core.RunID, id core.WorkerID) *x509.Certificate {
	return &x509.Certificate{
		URIs:        []*url.URL{spiffeURI(run, RoleWorker, id.String())},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
}

// knock tries every kind of call and returns the first call's error. It fails the
// test when any call passes.
func (h *harness) knock(cc grpc.ClientConnInterface, id core.WorkerID) error {
	h.t.Helper()
	ctx := ctxFor(h.t)
	_, err := transportv1.NewHeartbeatClient(cc).Beat(ctx, &transportv1.BeatRequest{WorkerId: id.String(), Epoch: 1, Seq: 1, State: 2})
	first := err
	check := func(what string, err error) {
		if err == nil {
			h.t.Errorf("%s passed", what)
		}
	}
	check("Beat", err)
	stream, err := transportv1.NewHeartbeatClient(cc).Stream(ctx)
	if err == nil {
		err = stream.Send(&transportv1.BeatRequest{WorkerId: id.String(), Epoch: 1, Seq: 1, State: 2})
		if err == nil || isEOF(err) {
			_, err = stream.Recv()
		}
	}
	check("Stream", err)
	_, err = transportv1.NewRegistryClient(cc).Register(ctx, &transportv1.RegisterRequest{WorkerId: id.String()})
	check("Register", err)
	_, err = transportv1.NewRegistryClient(cc).Renew(ctx, &transportv1.RenewRequest{WorkerId: id.String()})
	check("Renew", err)
	_, err = adminv1.NewAdminClient(cc).GetStatus(ctx, &adminv1.GetStatusRequest{})
	check("GetStatus", err)
	_, err = healthv1.NewHealthClient(cc).Check(ctx, &healthv1.HealthCheckRequest{})
	check("health", err)
	check("an unknown method", cc.Invoke(ctx, "/rollout.transport.v1.Heartbeat/Nothing", &emptypb.Empty{}, &emptypb.Empty{}))
	check("an unknown service", cc.Invoke(ctx, "/no.such/Thing", &emptypb.Empty{}, &emptypb.Empty{}))
	return first
}

// TestS1WhoMayConnect tries ten ways in; no handler may run.
func TestS1WhoMayConnect(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		other := newHarness(t, ProtocolH2, ownCA)
		id := core.NewWorkerID()
		good := workerTemplate(h.core.run, id)
		twice := workerTemplate(h.core.run, id)
		twice.URIs = append(twice.URIs, spiffeURI(h.core.run, RoleWorker, core.NewWorkerID().String()))
		bare := workerTemplate(h.core.run, id)
		bare.URIs = nil
		server := workerTemplate(h.core.run, id)
		server.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
		old := h.showing(h.forge(h.auth, good, time.Hour, time.Time{}))
		old.MaxVersion = tls.VersionTLS12
		cases := []struct {
			name string
			cfg  *tls.Config
			code core.Code
			on   Protocol // empty: every wire
		}{
			{"no certificate", h.showing(nil), core.CodeUnauthenticated, ""},
			{"another CA", h.showing(h.forge(other.auth, good, time.Hour, time.Time{})), core.CodeUnauthenticated, ""},
			{"expired", h.showing(h.forge(h.auth, good, time.Hour, time.Now().Add(-48*time.Hour))), core.CodeUnauthenticated, ""},
			{"not yet valid", h.showing(h.forge(h.auth, good, 48*time.Hour, time.Now().Add(24*time.Hour))), core.CodeUnauthenticated, ""},
			{"server certificate", h.showing(h.forge(h.auth, server, time.Hour, time.Time{})), core.CodeUnauthenticated, ""},
			{"no URI name", h.showing(h.forge(h.auth, bare, time.Hour, time.Time{})), core.CodeUnauthenticated, ""},
			{"two URI names", h.showing(h.forge(h.auth, twice, time.Hour, time.Time{})), core.CodeUnauthenticated, ""},
			{"another run", h.showing(h.forge(h.auth, workerTemplate(core.NewRunID(), id), time.Hour, time.Time{})), core.CodeUnauthenticated, ""},
			{"TLS 1.2", old, core.CodeVersionMismatch, ProtocolH2}, // QUIC knows nothing older than 1.3
			{"server of another CA", func() *tls.Config {
				c := h.showing(h.forge(h.auth, good, time.Hour, time.Time{}))
				c.RootCAs = other.auth.Pool()
				return c
			}(), core.CodeUnauthenticated, ""},
		}
		for _, c := range cases {
			if c.on != "" && c.on != p {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				for range chaosCount(t, 2) {
					cc := h.rawConn(c.cfg.Clone())
					err := h.knock(cc, id)
					if !core.IsCode(err, c.code) || !IsRefused(err) {
						t.Fatalf("the client is told %v (code %v), want code %v", err, core.CodeOf(err), c.code)
					}
					if err := cc.Close(); err != nil {
						t.Error(err)
					}
				}
			})
		}
		if n := h.core.count(); n != 0 {
			t.Errorf("%d handlers ran for callers who may not call", n)
		}
	})
}

// TestS1MissingCheckIsSeen plants the bug that authorization is for: the count of
// handlers that ran, which every case here rests on, must show it.
func TestS1MissingCheckIsSeen(t *testing.T) {
	h := newHarness(t, ProtocolH2, func(c *Config, _ *AuthorityConfig) { c.planted.authorize = true })
	cc := h.rawConn(h.showing(nil))
	if _, err := adminv1.NewAdminClient(cc).GetStatus(ctxFor(t), &adminv1.GetStatusRequest{}); err != nil {
		t.Errorf("without the check a stranger is still refused: %v", err)
	}
	if h.core.count() == 0 {
		t.Error("a handler that ran for a stranger is not counted")
	}
}

// TestS1Plaintext speaks HTTP/2 without TLS.
func TestS1Plaintext(t *testing.T) {
	h := newHarness(t, ProtocolH2)
	for range chaosCount(t, 2) {
		cc, err := grpc.NewClient("passthrough:///"+h.srv.Addr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		if err := h.knock(cc, core.NewWorkerID()); !core.IsCode(grpcerr.FromStatus("", err), core.CodeUnavailable) {
			t.Errorf("plaintext is told %v", err)
		}
		if err := cc.Close(); err != nil {
			t.Error(err)
		}
	}
	if n := h.core.count(); n != 0 {
		t.Errorf("%d handlers ran without TLS", n)
	}
}

// TestS1DeniedSession comes back with a session ticket, if the server gave one,
// after its certificate was denied.
func TestS1DeniedSession(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		for range chaosCount(t, 2) {
			id := core.NewWorkerID()
			cert := h.forge(h.auth, workerTemplate(h.core.run, id), time.Hour, time.Time{})
			cfg := h.showing(cert)
			cfg.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			cc := h.rawConn(cfg.Clone())
			if _, err := transportv1.NewRegistryClient(cc).Register(ctxFor(t), &transportv1.RegisterRequest{WorkerId: id.String(), ProtocolMax: 1}); err != nil {
				t.Fatal(err)
			}
			h.srv.Deny(serialText(cert.Leaf.SerialNumber))
			before := h.core.count()
			eventually(t, "the live connection is refused", func() bool {
				_, err := transportv1.NewRegistryClient(cc).Register(ctxFor(t), &transportv1.RegisterRequest{WorkerId: id.String(), ProtocolMax: 1})
				return IsRefused(err)
			})
			if err := cc.Close(); err != nil {
				t.Error(err)
			}
			if err := h.knock(h.rawConn(cfg.Clone()), id); !core.IsCode(err, core.CodeUnauthenticated) {
				t.Errorf("a denied certificate is told %v", err)
			}
			if n := h.core.count(); n != before {
				t.Errorf("%d handlers ran for a denied certificate", n-before)
			}
		}
	})
}

// TestRolesStayApart calls every role's methods with the other's certificate.
func TestRolesStayApart(t *testing.T) {
	h := newHarness(t, ProtocolH2)
	id := core.NewWorkerID()
	worker := h.rawConn(h.showing(h.forge(h.auth, workerTemplate(h.core.run, id), time.Hour, time.Time{})))
	operator := workerTemplate(h.core.run, id)
	operator.URIs = []*url.URL{spiffeURI(h.core.run, RoleAdmin, "ops")}
	admin := h.rawConn(h.showing(h.forge(h.auth, operator, time.Hour, time.Time{})))
	ctx := ctxFor(t)
	_, err := adminv1.NewAdminClient(worker).GetStatus(ctx, &adminv1.GetStatusRequest{})
	wantCode(t, err, core.CodePermissionDenied)
	_, err = healthv1.NewHealthClient(worker).Check(ctx, &healthv1.HealthCheckRequest{})
	wantCode(t, err, core.CodePermissionDenied)
	wantCode(t, worker.Invoke(ctx, "/no.such/Thing", &emptypb.Empty{}, &emptypb.Empty{}), core.CodeUnsupported)
	wantCode(t, worker.Invoke(ctx, "/rollout.transport.v1.Heartbeat/Nothing", &emptypb.Empty{}, &emptypb.Empty{}), core.CodeUnsupported)
	_, err = transportv1.NewHeartbeatClient(admin).Beat(ctx, &transportv1.BeatRequest{WorkerId: id.String()})
	wantCode(t, err, core.CodePermissionDenied)
	if n := h.core.count(); n != 0 {
		t.Errorf("%d handlers ran across roles", n)
	}
	if r, err := healthv1.NewHealthClient(admin).Check(ctx, &healthv1.HealthCheckRequest{}); err != nil || r.GetStatus() != healthv1.HealthCheckResponse_SERVING {
		t.Errorf("health: %v, %v", r, err)
	}
	rs, err := reflectionv1.NewServerReflectionClient(admin).ServerReflectionInfo(ctx)
	if err == nil {
		err = rs.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}})
	}
	if err != nil {
		t.Fatal(err)
	}
	if m, err := rs.Recv(); err != nil || len(m.GetListServicesResponse().GetService()) < 5 {
		t.Errorf("reflection lists %v, %v", m, err)
	}
}

// TestQUICLeavesTCPToOperators: the workers' services are on one wire only.
func TestQUICLeavesTCPToOperators(t *testing.T) {
	h := newHarness(t, ProtocolQUIC)
	cfg := h.client(h.issued(core.NewWorkerID(), time.Hour))
	cfg.Protocol = ProtocolH2
	w := h.dial(cfg)
	_, err := w.Register(ctxFor(t), core.Registration{ID: cfg.Identity.ID()})
	wantCode(t, err, core.CodeVersionMismatch)
	if !IsRefused(err) || h.core.count() != 0 {
		t.Errorf("a worker over the wrong wire: %v, %d handlers ran", err, h.core.count())
	}
}
