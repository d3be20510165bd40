package transport

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// Enrol gets a certificate for the identity of cfg with the join token, over HTTP/2
// on TCP whatever the protocol is. A coordinator that cannot be reached, and files
// that it has not made yet, are [core.CodeUnavailable]; too many enrolments at once
// [core.CodeThrottled]; both pass by themselves. A refusal, which [IsRefused] tells,
// is final.
func Enrol(ctx context.Context, cfg ClientConfig) error {
	const op = "enrol"
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return core.WithOp(op, err)
	}
	roots, err := loadRoots(cfg.TLSDir)
	if err != nil {
		return core.WithOp(op, err)
	}
	token, err := loadToken(cfg.TLSDir)
	if err != nil {
		return core.WithOp(op, err)
	}
	csr, err := newCSR(cfg.Identity.key)
	if err != nil {
		return core.Wrap(op, core.CodeInternal, err)
	}
	rec := &failureRecord{addr: cfg.Addr}
	cc, err := dialH2(cfg.Addr, clientTLS(roots, cfg.ServerName, "h2", nil), cfg.MaxBackoff, cfg.Guard, rec)
	if err != nil {
		return core.WithOp(op, err)
	}
	defer func() {
		if err := cc.Close(); err != nil {
			cfg.Logger.Debug("close of the enrolment's connection", "err", err)
		}
	}()
	m, err := transportv1.NewRegistryClient(cc).Enroll(ctx, &transportv1.EnrollRequest{WorkerId: cfg.Identity.id.String(), Csr: csr, Token: token})
	if err != nil {
		return core.WithOp(op, err)
	}
	return core.WithOp(op, cfg.Identity.store(m.GetCertificate()))
}
