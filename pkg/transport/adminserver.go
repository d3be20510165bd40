package transport

import (
	"context"
	"encoding/json"
	"io"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/pkg/core"
	adminv1 "github.com/rollout-substrate/rollout/proto/rollout/admin/v1"
)

// backupChunk is the size of one message of a backup.
const backupChunk = 256 << 10

// adminService puts a [core.Admin] on the wire.
type adminService struct {
	adminv1.UnimplementedAdminServer
	admin core.Admin
}

// GetStatus describes the coordinator.
func (a *adminService) GetStatus(ctx context.Context, _ *adminv1.GetStatusRequest) (*adminv1.GetStatusResponse, error) {
	st, err := a.admin.Status(ctx)
	if err != nil {
		return nil, err
	}
	return statusTo(st), nil
}

// ListWorkers streams every worker.
func (a *adminService) ListWorkers(_ *adminv1.ListWorkersRequest, ss grpc.ServerStreamingServer[adminv1.ListWorkersResponse]) error {
	rows, err := a.admin.Workers(ss.Context())
	if err != nil {
		return err
	}
	for i := range rows {
		w, err := workerTo(&rows[i])
		if err != nil {
			return err
		}
		if err := ss.Send(&adminv1.ListWorkersResponse{Worker: w}); err != nil {
			return err
		}
	}
	return nil
}

// ForgetWorker removes a worker.
func (a *adminService) ForgetWorker(ctx context.Context, m *adminv1.ForgetWorkerRequest) (*adminv1.ForgetWorkerResponse, error) {
	id, err := core.ParseWorkerID(m.GetWorkerId())
	if err != nil {
		return nil, err
	}
	if err := a.admin.ForgetWorker(ctx, id); err != nil {
		return nil, err
	}
	return &adminv1.ForgetWorkerResponse{}, nil
}

// SendCommand stores an order.
func (a *adminService) SendCommand(ctx context.Context, m *adminv1.SendCommandRequest) (*adminv1.SendCommandResponse, error) {
	id, err := core.ParseWorkerID(m.GetWorkerId())
	if err != nil {
		return nil, err
	}
	cmd, err := commandFrom(m.GetCommand())
	if err != nil {
		return nil, err
	}
	if cmd.Kind == "" {
		return nil, core.Errorf("send command", core.CodeInvalidArgument, "the command is of no known kind")
	}
	seq, err := a.admin.SendCommand(ctx, id, cmd)
	if err != nil {
		return nil, err
	}
	return &adminv1.SendCommandResponse{Seq: seq}, nil
}

// AwaitCommand waits for the answer to an order.
func (a *adminService) AwaitCommand(ctx context.Context, m *adminv1.AwaitCommandRequest) (*adminv1.AwaitCommandResponse, error) {
	id, err := core.ParseWorkerID(m.GetWorkerId())
	if err != nil {
		return nil, err
	}
	// A unary handler's context does not end with the server by itself.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	info := connOf(ctx)
	defer context.AfterFunc(info.ctx, func() { cancel(context.Cause(info.ctx)) })()
	r, err := a.admin.AwaitCommand(ctx, id, m.GetSeq())
	if err != nil {
		if info.ctx.Err() != nil {
			err = context.Cause(info.ctx)
		}
		return nil, err
	}
	return &adminv1.AwaitCommandResponse{Epoch: r.Worker.Epoch, Seq: r.Seq, Code: uint32(r.Code), Detail: r.Detail}, nil
}

// StreamEvents sends recorded events.
func (a *adminService) StreamEvents(m *adminv1.StreamEventsRequest, ss grpc.ServerStreamingServer[adminv1.StreamEventsResponse]) error {
	return a.admin.Events(ss.Context(), m.GetAfter(), m.GetFollow(), func(e core.StoredEvent) error {
		b, err := json.Marshal(e.Event)
		if err != nil {
			return core.Wrap("encode event", core.CodeInternal, err)
		}
		return ss.Send(&adminv1.StreamEventsResponse{Seq: e.Seq, EventJson: b})
	})
}

// CreateToken makes a join token.
func (a *adminService) CreateToken(ctx context.Context, m *adminv1.CreateTokenRequest) (*adminv1.CreateTokenResponse, error) {
	spec, err := tokenSpecFrom(m)
	if err != nil {
		return nil, err
	}
	tok, err := a.admin.NewToken(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &adminv1.CreateTokenResponse{Token: string(tok.Reveal())}, nil
}

// Backup streams a copy of the store.
func (a *adminService) Backup(_ *adminv1.BackupRequest, ss grpc.ServerStreamingServer[adminv1.BackupResponse]) error {
	w := &chunkWriter{send: ss.Send}
	n, err := a.admin.Backup(ss.Context(), w)
	if err != nil {
		return err
	}
	if err := w.flush(); err != nil {
		return err
	}
	return ss.Send(&adminv1.BackupResponse{TotalBytes: n})
}

// chunkWriter sends what is written to it in pieces of [backupChunk]. It belongs to
// one goroutine.
type chunkWriter struct {
	send func(*adminv1.BackupResponse) error
	buf  []byte
}

var _ io.Writer = (*chunkWriter)(nil)

// Write implements [io.Writer].
func (w *chunkWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if w.buf == nil {
			w.buf = make([]byte, 0, backupChunk)
		}
		k := min(len(p), backupChunk-len(w.buf))
		w.buf, p = append(w.buf, p[:k]...), p[k:]
		if len(w.buf) == backupChunk {
			if err := w.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

// flush sends what is left.
func (w *chunkWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	err := w.send(&adminv1.BackupResponse{Chunk: w.buf})
	w.buf = w.buf[:0] // Send has encoded it
	return err
}
