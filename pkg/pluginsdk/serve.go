package pluginsdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/rollout-substrate/rollout/pkg/core"
	pluginv1 "github.com/rollout-substrate/rollout/proto/rollout/plugin/v1"
)

// The handshake that a host of this version makes. The cookie is no secret: it
// keeps a plugin that is started by hand from waiting for a host.
const (
	ProtocolVersion = 1
	CookieKey       = "ROLLOUT_PLUGIN_COOKIE"
	CookieValue     = "rollout.plugin.v1"
	PluginName      = "rollout"
)

// maxMessage bounds one gRPC message in bytes: a payload and what surrounds it.
const maxMessage = core.MaxCallPayload + 64<<10

// Main serves p to the host that started this process and returns the exit status
// for main. Started by hand, it says so on stderr and returns 2.
func Main(p Plugin) int {
	if err := Serve(p); err != nil {
		fmt.Fprintln(os.Stderr, "plugin:", err)
		return 2
	}
	return 0
}

// Serve serves p until the host asks for its end. It returns an error when this
// process was not started by a rollout host.
func Serve(p Plugin) error {
	if os.Getenv(CookieKey) != CookieValue {
		return errors.New("this program is a rollout plugin; a worker starts it by its manifest, and `rollout plugin call MANIFEST METHOD` tries it")
	}
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: goplugin.HandshakeConfig{ProtocolVersion: ProtocolVersion, MagicCookieKey: CookieKey, MagicCookieValue: CookieValue},
		Plugins:         goplugin.PluginSet{PluginName: &bridge{plugin: p}},
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts, grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage))...)
		},
		Logger: hclog.New(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Off}),
	})
	return nil
}

// bridge registers the service with go-plugin's server.
type bridge struct {
	goplugin.NetRPCUnsupportedPlugin
	plugin Plugin
}

// GRPCServer implements [goplugin.GRPCPlugin].
func (b *bridge) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	pluginv1.RegisterPluginServer(s, &server{plugin: b.plugin})
	return nil
}

// GRPCClient implements [goplugin.GRPCPlugin]; the plugin's process never asks.
func (b *bridge) GRPCClient(context.Context, *goplugin.GRPCBroker, *grpc.ClientConn) (any, error) {
	return nil, errors.New("a plugin's process has no client")
}

// server answers the service's methods with the author's plugin.
type server struct {
	pluginv1.UnimplementedPluginServer
	plugin Plugin
}

// Init implements pluginv1.PluginServer.
func (s *server) Init(ctx context.Context, in *pluginv1.InitRequest) (*pluginv1.InitResponse, error) {
	config := in.GetConfigJson()
	if len(config) == 0 {
		config = []byte("{}")
	}
	if p, ok := s.plugin.(Initer); ok {
		if err := p.Init(ctx, config); err != nil {
			return nil, statusOf(err)
		}
	}
	return &pluginv1.InitResponse{}, nil
}

// Preflight implements pluginv1.PluginServer.
func (s *server) Preflight(ctx context.Context, _ *pluginv1.PreflightRequest) (*pluginv1.PreflightResponse, error) {
	if p, ok := s.plugin.(Preflighter); ok {
		if err := p.Preflight(ctx); err != nil {
			return nil, statusOf(err)
		}
	}
	return &pluginv1.PreflightResponse{}, nil
}

// Call implements pluginv1.PluginServer.
func (s *server) Call(ctx context.Context, in *pluginv1.CallRequest) (*pluginv1.CallResponse, error) {
	out, err := s.call(ctx, in.GetMethod(), in.GetPayload())
	if err != nil {
		return nil, statusOf(err)
	}
	return &pluginv1.CallResponse{Result: out}, nil
}

// call runs one method; a panic of the author's code costs the call, not the process.
func (s *server) call(ctx context.Context, method string, payload []byte) (out []byte, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v", r)
		}
	}()
	out, err = s.plugin.Call(ctx, method, payload)
	if err == nil && len(out) > core.MaxCallPayload {
		err = core.Errorf("", core.CodeTooLarge, "the result has %d bytes, at most %d are allowed", len(out), core.MaxCallPayload)
	}
	return out, err
}

// CallBatch implements pluginv1.PluginServer.
func (s *server) CallBatch(ctx context.Context, in *pluginv1.CallBatchRequest) (*pluginv1.CallBatchResponse, error) {
	results, err := s.batch(ctx, in.GetMethod(), in.GetPayloads())
	if err == nil && len(results) != len(in.GetPayloads()) {
		err = fmt.Errorf("CallBatch returned %d results for %d payloads", len(results), len(in.GetPayloads()))
	}
	if err != nil {
		return nil, statusOf(err)
	}
	out := &pluginv1.CallBatchResponse{Results: make([]*pluginv1.CallResult, len(results))}
	room := maxMessage - 32<<10
	for i, r := range results {
		if r.Err == nil && len(r.Result) > room {
			r.Err = core.Errorf("", core.CodeTooLarge, "the batch's results together exceed one message")
		}
		if r.Err != nil {
			out.Results[i] = &pluginv1.CallResult{Outcome: &pluginv1.CallResult_Error{Error: errorOf(r.Err)}}
			continue
		}
		room -= len(r.Result)
		out.Results[i] = &pluginv1.CallResult{Outcome: &pluginv1.CallResult_Result{Result: r.Result}}
	}
	return out, nil
}

func (s *server) batch(ctx context.Context, method string, payloads [][]byte) (out []core.CallResult, err error) {
	if p, ok := s.plugin.(Batcher); ok {
		defer func() {
			if r := recover(); r != nil {
				err = fmt.Errorf("panic: %v", r)
			}
		}()
		return p.CallBatch(ctx, method, payloads)
	}
	out = make([]core.CallResult, len(payloads))
	for i, payload := range payloads {
		out[i].Result, out[i].Err = s.call(ctx, method, payload)
	}
	return out, nil
}

// Shutdown implements pluginv1.PluginServer.
func (s *server) Shutdown(ctx context.Context, _ *pluginv1.ShutdownRequest) (*pluginv1.ShutdownResponse, error) {
	if p, ok := s.plugin.(Shutdowner); ok {
		if err := p.Shutdown(ctx); err != nil {
			return nil, statusOf(err)
		}
	}
	return &pluginv1.ShutdownResponse{}, nil
}

// statusOf turns an author's error into what the host reads.
func statusOf(err error) error {
	switch {
	case errors.Is(err, ErrUnknownMethod):
		return status.Error(codes.Unimplemented, err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, err.Error())
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, err.Error())
	}
	st := status.New(codes.Unknown, err.Error())
	if with, derr := st.WithDetails(errorOf(err)); derr == nil { // without it, the text still says all but the hint
		st = with
	}
	return st.Err()
}

// maxErrorText bounds an error's message in bytes: gRPC carries it in headers.
const maxErrorText = 2 << 10

func errorOf(err error) *pluginv1.PluginError {
	text := err.Error()
	if len(text) > maxErrorText {
		text = text[:maxErrorText] + "... (cut)"
	}
	hint := core.RetryOf(err)
	out := &pluginv1.PluginError{Message: text}
	switch code := core.CodeOf(err); code {
	case core.CodeTooLarge, core.CodePluginContract:
		out.Code = code.String()
	}
	if errors.Is(err, ErrUnknownMethod) {
		out.Code = core.CodePluginContract.String()
	}
	if hint.Kind != core.RetryNever {
		out.Retry = &pluginv1.RetryHint{
			Kind: pluginv1.RetryKind(hint.Kind), AfterMs: uint32(hint.After.Milliseconds()),
			BaseMs: uint32(hint.Base.Milliseconds()), MaxMs: uint32(hint.Max.Milliseconds()),
		}
	}
	return out
}
