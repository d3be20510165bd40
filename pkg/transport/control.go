package transport

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// controlService puts a [core.Control] on the wire.
type controlService struct {
	transportv1.UnimplementedControlServer
	control core.Control
}

// Subscribe streams commands.
func (c *controlService) Subscribe(m *transportv1.SubscribeRequest, ss grpc.ServerStreamingServer[transportv1.SubscribeResponse]) error {
	// The header goes out at once: a worker without commands learns from it that the
	// stream is open.
	if err := ss.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	w := core.WorkerRef{ID: connOf(ss.Context()).caller.Worker, Epoch: m.GetEpoch()}
	return c.control.Subscribe(ss.Context(), w, m.GetAfter(), func(cmd core.Command) error {
		return ss.Send(&transportv1.SubscribeResponse{Event: &transportv1.SubscribeResponse_Command{Command: commandTo(cmd)}})
	})
}

// Acknowledge takes the answer to a command.
func (c *controlService) Acknowledge(ctx context.Context, m *transportv1.AcknowledgeRequest) (*transportv1.AcknowledgeResponse, error) {
	err := c.control.Acknowledge(ctx, core.CommandResult{
		Worker: core.WorkerRef{ID: connOf(ctx).caller.Worker, Epoch: m.GetEpoch()},
		Seq:    m.GetSeq(), Code: codeFrom(m.GetCode()), Detail: m.GetDetail(),
	})
	if err != nil {
		return nil, err
	}
	return &transportv1.AcknowledgeResponse{}, nil
}
