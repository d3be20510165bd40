package transport

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/rollout-substrate/rollout/internal/grpcerr"
	"github.com/rollout-substrate/rollout/pkg/core"
	adminv1 "github.com/rollout-substrate/rollout/proto/rollout/admin/v1"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// workerPrefix begins the full name of every method for workers.
const workerPrefix = "/rollout.transport.v1."

// enrolMethod is the one method that needs no certificate.
const enrolMethod = transportv1.Registry_Enroll_FullMethodName

// roleOf returns the role that may use a method. What is not listed belongs to
// nobody: an unknown method is refused before it is found unknown.
func roleOf(method string) Role {
	switch service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/"); {
	case strings.HasPrefix(method, workerPrefix):
		return RoleWorker
	case service == adminv1.Admin_ServiceDesc.ServiceName,
		service == adminv1.Jobs_ServiceDesc.ServiceName,
		service == "grpc.health.v1.Health",
		service == "grpc.reflection.v1.ServerReflection",
		service == "grpc.reflection.v1alpha.ServerReflection":
		return RoleAdmin
	}
	return RoleNone
}

// guard stands in front of every method: it decides who may call, stamps answers
// with the epoch, turns errors into statuses and catches panics.
type guard struct {
	s       *Server
	epoch   metadata.MD // read only
	planted planted     // all false outside tests
}

// planted switches checks off. Only tests set it, to show that a missing check turns
// them red.
type planted struct{ authorize, binding, expiry bool }

// authorize returns the connection of a call that may go on.
func (g *guard) authorize(ctx context.Context, method string) (*connInfo, error) {
	info := connOf(ctx)
	if info == nil {
		return nil, core.Errorf("", core.CodeUnauthenticated, "the connection is not of this server")
	}
	if method == enrolMethod || g.planted.authorize {
		return info, nil
	}
	if err := g.identify(info); err != nil {
		return nil, err
	}
	if need := roleOf(method); need != info.caller.Role {
		if need == RoleNone {
			return nil, core.Errorf("", core.CodeUnsupported, "there is no method %s", clipText(method))
		}
		return nil, core.Errorf("", core.CodePermissionDenied, "%s needs the role %s, the caller is %s %s", clipText(method), need, info.caller.Role, info.caller.Name)
	}
	if info.caller.Role == RoleWorker {
		if !info.quic && g.s.cfg.Protocol == ProtocolQUIC {
			return nil, core.Errorf("", core.CodeVersionMismatch, "this coordinator serves its workers over quic: set transport.protocol = \"quic\"")
		}
		if err := info.spend(); err != nil {
			return nil, err
		}
	}
	return info, nil
}

// identify refuses a connection that names nobody of this run.
func (g *guard) identify(info *connInfo) error {
	switch {
	case info.refusal != nil:
		return info.refusal
	case info.caller.Role == RoleNone:
		return core.Errorf("", core.CodeUnauthenticated, "a client certificate is needed")
	case info.caller.Run != g.s.cfg.Authority.run:
		return core.Errorf("", core.CodeUnauthenticated, "the certificate is of run %s, this coordinator serves run %s: enrol again", info.caller.Run, g.s.cfg.Authority.run)
	}
	return g.checkLife(info)
}

// checkLife refuses a caller whose certificate is no longer good.
func (g *guard) checkLife(info *connInfo) error {
	if g.planted.expiry {
		return nil
	}
	return info.check(g.s.now())
}

// spend takes one call or beat out of the worker's allowance.
func (c *connInfo) spend() error {
	if w := c.worker; w != nil && w.limit != nil && !w.limit.Allow() {
		return core.Errorf("", core.CodeThrottled, "worker %s calls too often", c.caller.Name)
	}
	return nil
}

// fromWorker is every message of a worker.
type fromWorker interface{ GetWorkerId() string }

// checkMessage refuses a worker's message that names another worker. A message of a
// worker's service that names nobody is a defect and is refused as well.
func (g *guard) checkMessage(info *connInfo, method string, msg any) error {
	if info.caller.Role != RoleWorker || method == enrolMethod || g.planted.binding {
		return nil
	}
	m, ok := msg.(fromWorker)
	if !ok {
		return core.Errorf("", core.CodeInternal, "the message %T carries no worker id", msg)
	}
	if id := m.GetWorkerId(); id != info.caller.Name {
		err := core.Errorf("", core.CodePermissionDenied, "the message names worker %s, the certificate worker %s", clipText(id), info.caller.Name)
		g.s.log.Warn("message refused", "method", method, "addr", info.caller.Addr, "cert_serial", info.caller.Serial, "err", err)
		return err
	}
	return nil
}

// unary is the interceptor of every unary method.
func (g *guard) unary(ctx context.Context, req any, ui *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			resp, err = nil, grpcerr.ToStatus(g.panicked(ui.FullMethod, r))
		}
	}()
	// A beat's answer carries the epoch in itself, which is cheaper than a header; it
	// is the one call that is made all the time. Its refusal needs the header.
	defer func() {
		if err != nil || ui.FullMethod != transportv1.Heartbeat_Beat_FullMethodName {
			_ = grpc.SetHeader(ctx, g.epoch) // fails only after the answer has begun, which is not yet
		}
	}()
	info, err := g.authorize(ctx, ui.FullMethod)
	if err == nil {
		err = g.checkMessage(info, ui.FullMethod, req)
	}
	if err != nil {
		g.refused(ctx, info, ui.FullMethod, err)
		return nil, grpcerr.ToStatus(err)
	}
	if !g.s.calls.begin() {
		return nil, grpcerr.ToStatus(errStopping)
	}
	defer g.s.calls.end()
	resp, err = next(ctx, req)
	return resp, grpcerr.ToStatus(err)
}

// stream is the interceptor of every streaming method, and of unknown ones.
func (g *guard) stream(srv any, ss grpc.ServerStream, si *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = grpcerr.ToStatus(g.panicked(si.FullMethod, r))
		}
	}()
	_ = ss.SetHeader(g.epoch) // fails only after the answer has begun, which is not yet
	info, err := g.authorize(ss.Context(), si.FullMethod)
	if err != nil {
		g.refused(ss.Context(), info, si.FullMethod, err)
		return grpcerr.ToStatus(err)
	}
	ctx, cancel := context.WithCancelCause(ss.Context())
	defer cancel(nil)
	stop := context.AfterFunc(info.ctx, func() { cancel(context.Cause(info.ctx)) })
	defer stop()
	// A heartbeat stream lasts as long as its worker does, so a shutdown does not
	// wait for it.
	if si.FullMethod != transportv1.Heartbeat_Stream_FullMethodName {
		if !g.s.calls.begin() {
			return grpcerr.ToStatus(errStopping)
		}
		defer g.s.calls.end()
	}
	err = next(srv, &guardedStream{ServerStream: ss, ctx: ctx, g: g, info: info, method: si.FullMethod})
	if err != nil && ctx.Err() != nil && ss.Context().Err() == nil {
		err = context.Cause(ctx) // why the handler's context ended says more than that it did
	}
	return grpcerr.ToStatus(err)
}

// guardedStream checks every message that comes in.
type guardedStream struct {
	grpc.ServerStream
	ctx    context.Context
	g      *guard
	info   *connInfo
	method string
}

// Context returns a context that also ends with the caller's certificate and with
// the server.
func (s *guardedStream) Context() context.Context { return s.ctx }

// RecvMsg refuses a message whose sender may no longer send it.
func (s *guardedStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if err := s.g.checkLife(s.info); err != nil {
		s.g.refused(s.ctx, s.info, s.method, err)
		return err
	}
	return s.g.checkMessage(s.info, s.method, m)
}

// refused logs a refusal. Nobody else does: the caller gets the status. A flood of
// refusals leaves ten lines a second.
func (g *guard) refused(ctx context.Context, info *connInfo, method string, err error) {
	if !g.s.refusals.Allow() {
		return
	}
	if info == nil {
		info = connOf(ctx)
	}
	var c Caller
	if info != nil {
		c = info.caller
	}
	g.s.log.Info("call refused", "method", clipText(method), "role", string(c.Role), "name", c.Name, "addr", c.Addr, "err", err)
}

func (g *guard) panicked(method string, r any) error {
	g.s.log.Error("handler panicked", "method", method, "panic", fmt.Sprint(r), "stack", string(debug.Stack()))
	return core.Errorf("", core.CodeInternal, "%s failed because of a defect, see the coordinator's log", method)
}

// clipText bounds foreign text in errors and logs to 64 bytes.
func clipText(s string) string {
	if len(s) > 64 {
		s = s[:64] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}

// now is the server's wall clock. Only certificates are judged by it.
func (s *Server) now() time.Time { return s.cfg.Authority.iss.now() }
