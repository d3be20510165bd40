package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

const (
	maxEnrolBytes = 4 << 10
	enrolTimeout  = 5 * time.Second
)

// registryService puts a [core.Registry] and a [core.Enroller] on the wire.
type registryService struct {
	transportv1.UnimplementedRegistryServer
	s        *Server
	registry core.Registry
	enroller core.Enroller
	limit    *addrLimiter
}

// Enroll issues a certificate for a token.
func (r *registryService) Enroll(ctx context.Context, m *transportv1.EnrollRequest) (*transportv1.EnrollResponse, error) {
	const op = "enrol"
	info := connOf(ctx)
	if !r.limit.allowHost(hostOf(info.caller.Addr)) {
		return nil, core.Errorf(op, core.CodeThrottled, "too many enrolments from %s, try again in a second", hostOf(info.caller.Addr)).
			WithRetry(core.RetryHint{Kind: core.RetryBackoff, Base: time.Second, Max: 5 * time.Second})
	}
	if n := proto.Size(m); n > maxEnrolBytes {
		return nil, core.Errorf(op, core.CodeTooLarge, "the request has %d bytes, at most %d are taken", n, maxEnrolBytes)
	}
	ctx, cancel := context.WithTimeout(ctx, enrolTimeout)
	defer cancel()
	id, err := core.ParseWorkerID(m.GetWorkerId())
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	if m.GetToken() == "" || len(m.GetToken()) > maxTokenBytes {
		return nil, core.Errorf(op, core.CodeUnauthenticated, "the join token is missing or too long")
	}
	der, err := r.issue(ctx, id, m.GetCsr(), core.Enrolment{ID: id, Token: core.NewSecret([]byte(m.GetToken())), Addr: info.caller.Addr})
	if err != nil {
		r.s.log.Warn("enrolment refused", "worker_id", id.String(), "addr", info.caller.Addr, "err", err)
		return nil, core.WithOp(op, err)
	}
	return &transportv1.EnrollResponse{Certificate: der, RunId: r.s.cfg.Authority.run.String()}, nil
}

// Renew issues the next certificate to a worker that shows a valid one.
func (r *registryService) Renew(ctx context.Context, m *transportv1.RenewRequest) (*transportv1.RenewResponse, error) {
	const op = "renew"
	info := connOf(ctx)
	der, err := r.issue(ctx, info.caller.Worker, m.GetCsr(), core.Enrolment{
		ID: info.caller.Worker, Renewal: true, Addr: info.caller.Addr, HeldKey: []byte(info.caller.key),
	})
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	return &transportv1.RenewResponse{Certificate: der}, nil
}

// issue signs once the enroller admits the key.
func (r *registryService) issue(ctx context.Context, id core.WorkerID, csr []byte, e core.Enrolment) ([]byte, error) {
	pub, err := readCSR(csr)
	if err != nil {
		return nil, err
	}
	if e.PublicKey, err = marshalKey(pub); err != nil {
		return nil, err
	}
	if err := r.enroller.Admit(ctx, e); err != nil {
		return nil, err
	}
	c, err := r.s.cfg.Authority.IssueWorker(id, pub, r.s.cfg.WorkerLife)
	if err != nil {
		return nil, err
	}
	r.s.log.Info("worker certificate issued", "worker_id", id.String(), "cert_serial", serialText(c.SerialNumber), "renewal", e.Renewal, "addr", e.Addr, "not_after", c.NotAfter)
	return c.Raw, nil
}

func marshalKey(pub *ecdsa.PublicKey) ([]byte, error) {
	b, err := x509.MarshalPKIXPublicKey(pub)
	return b, core.Wrap("encode key", core.CodeInvalidArgument, err)
}

// Register begins an epoch.
func (r *registryService) Register(ctx context.Context, m *transportv1.RegisterRequest) (*transportv1.RegisterResponse, error) {
	info := connOf(ctx)
	inv, err := inventoryFrom(m.GetInventoryJson())
	if err != nil {
		return nil, err
	}
	out, err := r.registry.Register(ctx, core.Registration{
		ID: info.caller.Worker, PrevEpoch: m.GetPrevEpoch(), Addr: info.caller.Addr, Version: m.GetVersion(),
		ProtocolMin: m.GetProtocolMin(), ProtocolMax: m.GetProtocolMax(), Inventory: inv, Slots: int(m.GetSlots()),
		CertSerial: info.caller.Serial, RestartReason: m.GetRestartReason(),
	})
	if err != nil {
		return nil, err
	}
	return &transportv1.RegisterResponse{
		RunId: out.Run.String(), Epoch: out.Epoch, CoordinatorEpoch: out.CoordinatorEpoch,
		HeartbeatIntervalNs: int64(out.Timing.HeartbeatInterval), SelfFenceNs: int64(out.Timing.SelfFence),
		FailureNs: int64(out.Timing.Failure), SkewNs: int64(out.Timing.Skew),
		Protocol: out.Protocol, CommandSeq: out.CommandSeq,
	}, nil
}

// Deregister ends an epoch.
func (r *registryService) Deregister(ctx context.Context, m *transportv1.DeregisterRequest) (*transportv1.DeregisterResponse, error) {
	final := stateFrom(m.GetFinalState())
	if final != core.StateDone && final != core.StateFailed {
		return nil, core.Errorf("deregister", core.CodeInvalidArgument, "the final state is neither done nor failed")
	}
	w := core.WorkerRef{ID: connOf(ctx).caller.Worker, Epoch: m.GetEpoch()}
	if err := r.registry.Deregister(ctx, w, final, m.GetReason()); err != nil {
		return nil, err
	}
	return &transportv1.DeregisterResponse{}, nil
}
