package pluginhost

import (
	"cmp"
	"context"
	"errors"
	"sync/atomic"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/rollout-substrate/rollout/internal/grpcerr"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/parts"
	pluginv1 "github.com/rollout-substrate/rollout/proto/rollout/plugin/v1"
)

// maxGRPCMessage bounds one message in bytes: a payload and what surrounds it.
const maxGRPCMessage = core.MaxCallPayload + 64<<10

// grpcInstance is a sidecar that speaks rollout.plugin.v1 behind go-plugin's
// handshake.
type grpcInstance struct {
	r       *grpcRunner
	client  *goplugin.Client
	conn    *grpc.ClientConn
	plugin  pluginv1.PluginClient
	probing atomic.Bool // a probe for a stuck process is under way
	halt    stopOnce
}

// startGRPC starts a sidecar of protocol grpc.
func startGRPC(ctx context.Context, m core.Manifest, env hostEnv) (instance, error) {
	cmd, err := resolveCommand(ctx, m, env)
	if err != nil {
		return nil, err
	}
	r, err := newGRPCRunner(ctx, m, env, cmd)
	if err != nil {
		return nil, err
	}
	i := &grpcInstance{r: r, client: r.newClient()}
	if err := i.connect(ctx, m); err != nil {
		return nil, i.startError(err)
	}
	return i, nil
}

// connect shakes hands, dials, initialises and preflights.
func (i *grpcInstance) connect(ctx context.Context, m core.Manifest) error {
	proto, err := i.client.Client()
	if err != nil {
		if i.r.err != nil { // our own reading of the handshake says more
			err = i.r.err
		}
		return core.Wrap("", codeOr(err, core.CodePluginContract), err)
	}
	gc, ok := proto.(*goplugin.GRPCClient)
	if !ok {
		return core.Errorf("", core.CodePluginContract, "the plugin does not speak gRPC")
	}
	i.conn, i.plugin = gc.Conn, pluginv1.NewPluginClient(gc.Conn)
	config, err := configJSON(m.Config)
	if err != nil {
		return err
	}
	if _, err := i.plugin.Init(ctx, &pluginv1.InitRequest{ConfigJson: config}); err != nil {
		return readStatus(ctx, err)
	}
	if _, err := i.plugin.Preflight(ctx, &pluginv1.PreflightRequest{}); err != nil {
		return readStatus(ctx, err)
	}
	return nil
}

func codeOr(err error, code core.Code) core.Code {
	if c := core.CodeOf(err); c != core.CodeUnknown {
		return c
	}
	return code
}

// startError ends a process that did not become ready and explains why.
func (i *grpcInstance) startError(cause error) error {
	if i.r.p == nil { // nothing runs
		i.client.Kill()
		return errors.Join(cause, i.r.dir.remove())
	}
	if core.CodeOf(cause) == core.CodeUnavailable {
		cause = core.Errorf("", core.CodePluginCrashed, "%w", cause)
	}
	err := i.r.p.startError(cause)
	i.client.Kill()
	return err
}

// readStatus turns a status into the error that the host returns.
func readStatus(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return core.Wrap("", core.CodeDeadlineExceeded, ctx.Err())
	}
	st := status.Convert(err)
	for _, d := range st.Details() {
		if e, ok := d.(*pluginv1.PluginError); ok {
			return readPluginError(e)
		}
	}
	err = grpcerr.FromStatus("", err)
	if core.IsCode(err, core.CodePluginError) {
		return err
	}
	switch st.Code() {
	case codes.Unimplemented:
		return core.Errorf("", core.CodePluginContract, "%s", st.Message())
	case codes.Canceled, codes.DeadlineExceeded, codes.Unavailable:
		return err
	}
	if core.IsCode(err, core.CodeTooLarge) {
		return err
	}
	return core.Errorf("", core.CodePluginError, "%s (%s)", st.Message(), st.Code())
}

// readPluginError reads what a plugin says of its own failure. Two codes are the
// SDK's word on the contract; every other is the author's.
func readPluginError(e *pluginv1.PluginError) error {
	switch code := core.ParseCode(e.GetCode()); code {
	case core.CodePluginContract, core.CodeTooLarge:
		return core.Errorf("", code, "%s", e.GetMessage())
	}
	return grpcerr.FromPlugin(e)
}

func (i *grpcInstance) call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	out, err := i.plugin.Call(ctx, &pluginv1.CallRequest{Method: method, Payload: payload})
	if err != nil {
		return nil, i.explain(ctx, err)
	}
	if len(out.GetResult()) > core.MaxCallPayload {
		return nil, core.Errorf("", core.CodeTooLarge, "the result has %d bytes, at most %d are allowed", len(out.GetResult()), core.MaxCallPayload)
	}
	return out.GetResult(), nil
}

func (i *grpcInstance) callBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	return parts.Answer(payloads, grpcBatchLen, func(part [][]byte) ([]core.CallResult, error) {
		return i.batch(ctx, method, part)
	})
}

// grpcBatchLen returns how many payloads, at least one, fit in one message.
func grpcBatchLen(payloads [][]byte) int {
	room := maxGRPCMessage - 1<<10
	for i, p := range payloads {
		if room -= len(p) + 8; room < 0 {
			return max(i, 1)
		}
	}
	return len(payloads)
}

func (i *grpcInstance) batch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	out, err := i.plugin.CallBatch(ctx, &pluginv1.CallBatchRequest{Method: method, Payloads: payloads})
	if status.Code(err) == codes.Unimplemented {
		return i.oneByOne(ctx, method, payloads)
	}
	if err != nil {
		return nil, i.explain(ctx, err)
	}
	if len(out.GetResults()) != len(payloads) {
		return nil, core.Errorf("", core.CodePluginContract, "%d answers to a batch of %d", len(out.GetResults()), len(payloads))
	}
	results := make([]core.CallResult, len(payloads))
	for k, r := range out.GetResults() {
		if e := r.GetError(); e != nil {
			results[k].Err = readPluginError(e)
			continue
		}
		results[k].Result = r.GetResult()
	}
	return results, nil
}

// oneByOne serves a batch for a plugin without CallBatch.
func (i *grpcInstance) oneByOne(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	results := make([]core.CallResult, len(payloads))
	for k, p := range payloads {
		results[k].Result, results[k].Err = i.call(ctx, method, p)
	}
	return results, nil
}

// explain reads a failed call and looks into what may lie behind it.
func (i *grpcInstance) explain(ctx context.Context, err error) error {
	if timeIsUp(ctx, err) {
		i.probe()
		return core.Wrap("", core.CodeDeadlineExceeded, cmp.Or(ctx.Err(), context.DeadlineExceeded))
	}
	err = readStatus(ctx, err)
	if core.CodeOf(err) == core.CodeUnavailable {
		return i.exit()
	}
	return err
}

// clockSlack is how much earlier than ours a plugin's clock may find a call's
// deadline passed, which it is told as time left.
const clockSlack = 100 * time.Millisecond

// timeIsUp reports whether a call failed because its context has ended. The end of
// the plugin's own count may arrive a moment before ours.
func timeIsUp(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return true
	}
	deadline, ok := ctx.Deadline()
	return ok && endedByTime(err) && time.Until(deadline) < clockSlack
}

// endedByTime reports whether a status tells of a deadline: the other end, when it
// is the first to see it pass, resets the stream as if it were cancelled.
func endedByTime(err error) bool {
	code := status.Code(err)
	return code == codes.DeadlineExceeded || code == codes.Canceled
}

// probe asks an instance that let a call pass its deadline for a sign of life, and
// kills it when there is none: a stopped process, or one whose every thread is
// taken, answers nothing.
func (i *grpcInstance) probe() {
	if !i.probing.CompareAndSwap(false, true) {
		return
	}
	go func() {
		defer i.probing.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := healthv1.NewHealthClient(i.conn).Check(ctx, &healthv1.HealthCheckRequest{Service: goplugin.GRPCServiceName})
		if endedByTime(err) {
			i.r.p.kill()
		}
	}()
}

func (i *grpcInstance) containment() core.Containment { return i.r.p.contain }
func (i *grpcInstance) pid() int                      { return i.r.p.childID }
func (i *grpcInstance) done() <-chan struct{}         { return i.r.p.exited }
func (i *grpcInstance) exit() error                   { return i.r.p.crashError(nil) }

func (i *grpcInstance) stop(ctx context.Context) error {
	return i.halt.do(func() error {
		if ctx.Err() != nil {
			i.r.p.kill()
		} else {
			bounded, cancel := context.WithTimeout(ctx, stopPatience)
			defer cancel()
			// A plugin that fails here is ended all the same.
			_, _ = i.plugin.Shutdown(bounded, &pluginv1.ShutdownRequest{})
			stop := context.AfterFunc(bounded, i.r.p.kill)
			defer stop()
		}
		i.client.Kill() // graceful by go-plugin's controller, then through the runner
		i.r.p.finish(ctx, stopPatience)
		return nil
	})
}
