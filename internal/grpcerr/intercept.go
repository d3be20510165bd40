package grpcerr

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
)

// UnaryServer turns the error of every unary handler into a status.
func UnaryServer(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	return resp, ToStatus(err)
}

// StreamServer turns the error of every streaming handler into a status.
func StreamServer(srv any, ss grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return ToStatus(next(srv, ss))
}

// UnaryClient turns the status of every unary call into a [core.Error].
func UnaryClient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, next grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return FromStatus("", next(ctx, method, req, reply, cc, opts...))
}

// StreamClient turns the status of every streaming call into a [core.Error].
// [io.EOF] stays what it is: the end of a stream that went well.
func StreamClient(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, next grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	cs, err := next(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, FromStatus("", err)
	}
	return clientStream{cs}, nil
}

// clientStream translates what a stream's methods return.
type clientStream struct{ grpc.ClientStream }

func (s clientStream) RecvMsg(m any) error { return translate(s.ClientStream.RecvMsg(m)) }
func (s clientStream) SendMsg(m any) error { return translate(s.ClientStream.SendMsg(m)) }
func (s clientStream) CloseSend() error    { return translate(s.ClientStream.CloseSend()) }

func translate(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	return FromStatus("", err)
}
