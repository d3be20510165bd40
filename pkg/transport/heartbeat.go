package transport

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/internal/grpcerr"
	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// heartbeatService puts a [core.Beats] on the wire.
type heartbeatService struct {
	transportv1.UnimplementedHeartbeatServer
	s     *Server
	beats core.Beats
}

// Beat records one beat.
func (b *heartbeatService) Beat(ctx context.Context, m *transportv1.BeatRequest) (*transportv1.BeatResponse, error) {
	h, err := beatFrom(m, connOf(ctx).caller.Worker)
	if err != nil {
		return nil, err
	}
	ack, err := b.beats.Beat(ctx, h)
	if err != nil {
		return nil, err
	}
	return &transportv1.BeatResponse{Seq: ack.Seq, CoordinatorEpoch: b.s.cfg.Epoch, ReceivedUnixNs: unixNano(ack.ReceivedAt)}, nil
}

// Stream records beats as they come. One goroutine and two messages serve the
// stream for all its life, because there are as many streams as workers.
func (b *heartbeatService) Stream(ss grpc.BidiStreamingServer[transportv1.BeatRequest, transportv1.BeatResponse]) error {
	ctx := ss.Context()
	info := connOf(ctx)
	var (
		last core.WorkerRef
		in   transportv1.BeatRequest
		out  transportv1.BeatResponse
	)
	n := info.worker.openStream()
	err := b.serve(ctx, ss, info, &in, &out, &last)
	if last.Epoch != 0 && !core.IsCode(err, core.CodeFenced) && b.s.ctx.Err() == nil {
		info.worker.closeStream(n, func() { b.beats.Disconnected(last, endReason(err)) })
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// serve answers beats until the stream ends, and returns why it did.
func (b *heartbeatService) serve(ctx context.Context, ss grpc.ServerStream, info *connInfo, in *transportv1.BeatRequest, out *transportv1.BeatResponse, last *core.WorkerRef) error {
	for {
		if err := ss.RecvMsg(in); err != nil {
			return err
		}
		out.Reset()
		out.Seq, out.CoordinatorEpoch = in.GetSeq(), b.s.cfg.Epoch
		err := info.spend()
		if err == nil {
			err = b.record(ctx, info, in, out, last)
		}
		if err != nil {
			switch core.CodeOf(err) {
			case core.CodeFenced, core.CodeUnauthenticated, core.CodePermissionDenied:
				return err
			}
			out.Error = grpcerr.ToProto(err)
		}
		if err := ss.SendMsg(out); err != nil {
			return err
		}
	}
}

// record hands one beat over and fills the answer.
func (b *heartbeatService) record(ctx context.Context, info *connInfo, in *transportv1.BeatRequest, out *transportv1.BeatResponse, last *core.WorkerRef) error {
	h, err := beatFrom(in, info.caller.Worker)
	if err != nil {
		return err
	}
	ack, err := b.beats.Beat(ctx, h)
	if err != nil {
		return err
	}
	*last = h.Worker
	out.Seq, out.ReceivedUnixNs = ack.Seq, unixNano(ack.ReceivedAt)
	return nil
}

// endReason says for the log why a heartbeat stream is over.
func endReason(err error) string {
	switch {
	case errors.Is(err, io.EOF):
		return "the worker closed its heartbeat stream"
	case core.CodeOf(err) == core.CodeUnauthenticated:
		return err.Error()
	}
	return "the heartbeat connection broke"
}
