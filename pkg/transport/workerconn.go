package transport

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// WorkerConn is a worker's way to its coordinator. It connects when first used and
// again whenever the connection is lost; a call made meanwhile fails at once with
// [core.CodeUnavailable], or with a refusal that [IsRefused] tells. When the
// identity gets a new certificate, calls and streams move to a connection that shows
// it, without one of them failing. Safe for concurrent use.
type WorkerConn struct {
	cfg ClientConfig
	rec *failureRecord

	mu     sync.Mutex // guards the fields below; held over the making of a link, which does no network
	cur    *link
	closed bool
}

var (
	_ core.Registry = (*WorkerConn)(nil)
	_ core.Control  = (*WorkerConn)(nil)
)

// DialWorker returns a connection for a worker whose identity has a valid
// certificate; without one it is [core.CodeUnauthenticated], see [Enrol]. It does no
// network. While ca.pem is not there yet it is [core.CodeUnavailable].
func DialWorker(cfg ClientConfig) (*WorkerConn, error) {
	const op = "dial coordinator"
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, core.WithOp(op, err)
	}
	w := &WorkerConn{cfg: cfg, rec: &failureRecord{addr: cfg.Addr}}
	var err error
	if w.cur, err = w.newLink(); err != nil {
		return nil, core.WithOp(op, err)
	}
	return w, nil
}

// Close ends every call and stream and closes the connection.
func (w *WorkerConn) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	w.closed = true
	// Streams end with the client connections, so the link is closed under them.
	err := w.cur.retire()
	w.cur.mu.Lock()
	busy := w.cur.refs > 0
	w.cur.mu.Unlock()
	if busy {
		err = w.cur.close()
	}
	return core.Wrap("close connection", core.CodeUnavailable, err)
}

// link returns the current link, counted. A certificate that is newer than the
// link's makes a new one.
func (w *WorkerConn) link() (*link, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, core.Errorf("", core.CodeClosed, "the connection was closed")
	}
	if c := w.cfg.Identity.current(); c != nil && c != w.cur.cert {
		next, err := w.newLink()
		if err != nil {
			return nil, err
		}
		if err := w.cur.retire(); err != nil {
			w.cfg.Logger.Warn("close of the connection with the old certificate", "err", err)
		}
		w.cur = next
	}
	if w.cfg.Identity.current() == nil {
		return nil, core.Errorf("", core.CodeUnauthenticated, "the certificate has expired: the worker must enrol again")
	}
	w.cur.acquire()
	return w.cur, nil
}

// done releases a link after a call.
func (w *WorkerConn) done(l *link) {
	if err := l.release(); err != nil {
		w.cfg.Logger.Warn("close of the connection with the old certificate", "err", err)
	}
}

// call makes one unary call on a channel.
func (w *WorkerConn) call(op string, ch channel, f func(grpc.ClientConnInterface) error) error {
	l, err := w.link()
	if err != nil {
		return core.WithOp(op, err)
	}
	defer w.done(l)
	if err := f(l.ccs[ch]); err != nil {
		return core.WithOp(op, err)
	}
	return nil
}

// Register implements [core.Registry]. Addr and CertSerial are set by the server.
func (w *WorkerConn) Register(ctx context.Context, r core.Registration) (core.Registered, error) {
	const op = "register"
	inv, err := inventoryTo(r.Inventory)
	if err != nil {
		return core.Registered{}, core.WithOp(op, err)
	}
	var m *transportv1.RegisterResponse
	err = w.call(op, channelControl, func(cc grpc.ClientConnInterface) (err error) {
		m, err = transportv1.NewRegistryClient(cc).Register(ctx, &transportv1.RegisterRequest{
			WorkerId: r.ID.String(), PrevEpoch: r.PrevEpoch, Version: r.Version, ProtocolMin: r.ProtocolMin, ProtocolMax: r.ProtocolMax,
			InventoryJson: inv, Slots: uint32(max(0, r.Slots)), RestartReason: r.RestartReason,
		})
		return err
	})
	if err != nil {
		return core.Registered{}, err
	}
	run, err := core.ParseRunID(m.GetRunId())
	if err != nil {
		return core.Registered{}, core.WithOp(op, err)
	}
	return core.Registered{
		Run: run, Epoch: m.GetEpoch(), CoordinatorEpoch: m.GetCoordinatorEpoch(),
		Timing:   timingFrom(m.GetHeartbeatIntervalNs(), m.GetSelfFenceNs(), m.GetFailureNs(), m.GetSkewNs()),
		Protocol: m.GetProtocol(), CommandSeq: m.GetCommandSeq(),
	}, nil
}

// Deregister implements [core.Registry].
func (w *WorkerConn) Deregister(ctx context.Context, ref core.WorkerRef, final core.WorkerState, reason string) error {
	return w.call("deregister", channelControl, func(cc grpc.ClientConnInterface) error {
		_, err := transportv1.NewRegistryClient(cc).Deregister(ctx, &transportv1.DeregisterRequest{
			WorkerId: ref.ID.String(), Epoch: ref.Epoch, FinalState: stateTo(final), Reason: reason,
		})
		return err
	})
}

// Beat sends one beat as a call of its own. The steady state is [WorkerConn.OpenHeartbeat].
func (w *WorkerConn) Beat(ctx context.Context, h core.Heartbeat) (core.BeatAck, error) {
	var (
		in  transportv1.BeatRequest
		out *transportv1.BeatResponse
	)
	beatTo(&in, h, h.Worker.ID.String())
	err := w.call("beat", channelBeat, func(cc grpc.ClientConnInterface) (err error) {
		out, err = transportv1.NewHeartbeatClient(cc).Beat(ctx, &in)
		return err
	})
	if err != nil {
		return core.BeatAck{}, err
	}
	return ackFrom(out), nil
}

func ackFrom(m *transportv1.BeatResponse) core.BeatAck {
	return core.BeatAck{Seq: m.GetSeq(), CoordinatorEpoch: m.GetCoordinatorEpoch(), ReceivedAt: fromUnixNano(m.GetReceivedUnixNs())}
}

// Acknowledge implements [core.Control].
func (w *WorkerConn) Acknowledge(ctx context.Context, r core.CommandResult) error {
	return w.call("acknowledge", channelControl, func(cc grpc.ClientConnInterface) error {
		_, err := transportv1.NewControlClient(cc).Acknowledge(ctx, &transportv1.AcknowledgeRequest{
			WorkerId: r.Worker.ID.String(), Epoch: r.Worker.Epoch, Seq: r.Seq, Code: uint32(r.Code), Detail: r.Detail,
		})
		return err
	})
}

// Renew gets the next certificate on the live connection and stores it. Calls in
// flight go on; later ones show the new certificate. Call it at
// [Identity.RenewAt].
func (w *WorkerConn) Renew(ctx context.Context) error {
	const op = "renew certificate"
	csr, err := newCSR(w.cfg.Identity.key)
	if err != nil {
		return core.Wrap(op, core.CodeInternal, err)
	}
	var m *transportv1.RenewResponse
	err = w.call(op, channelControl, func(cc grpc.ClientConnInterface) (err error) {
		m, err = transportv1.NewRegistryClient(cc).Renew(ctx, &transportv1.RenewRequest{WorkerId: w.cfg.Identity.id.String(), Csr: csr})
		return err
	})
	if err != nil {
		return err
	}
	return core.WithOp(op, w.cfg.Identity.store(m.GetCertificate()))
}
