package pluginhost

import (
	"context"
	"errors"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/framed"
)

// stopPatience is how long a sidecar may take to shut down before it is killed.
const stopPatience = 5 * time.Second

// framedInstance is a sidecar that speaks frames on descriptor 3.
type framedInstance struct {
	p    *process
	c    *framed.Client
	halt stopOnce
}

// startFramed starts a sidecar of protocol framed.
func startFramed(ctx context.Context, m core.Manifest, env hostEnv) (instance, error) {
	cmd, err := resolveCommand(ctx, m, env)
	if err != nil {
		return nil, err
	}
	return startFrames(ctx, m, env, cmd)
}

// startIsolatedSO starts a process of this very program that serves a shared
// library, under the same containment as any sidecar.
func startIsolatedSO(ctx context.Context, m core.Manifest, env hostEnv) (instance, error) {
	if len(env.launcher) == 0 {
		return nil, core.Errorf("so", core.CodeUnsupported, "isolation = \"process\" needs a launcher, and the host was given none")
	}
	m.Sidecar.Protocol = core.ProtocolFramed
	server := soServer{path: m.SO.Path, symbol: m.SO.Symbol, sha256: m.SO.SHA256, concurrency: m.Runtime.Concurrency}
	argv := append(append([]string(nil), env.launcher...), launchSO)
	return startFrames(ctx, m, env, command{
		exe: env.launcher[0], argv: append(argv, server.args()...), read: []string{env.launcher[0], m.SO.Path},
	})
}

func startFrames(ctx context.Context, m core.Manifest, env hostEnv, cmd command) (instance, error) {
	p, err := spawn(ctx, m, env, spawnOptions{cmd: cmd, env: []string{"ROLLOUT_PLUGIN_FD=3"}, stream: true})
	if err != nil {
		return nil, err
	}
	r, err := framed.Handshake(ctx, p.conn, m.Config)
	if err != nil {
		return nil, p.startError(err)
	}
	c, err := framed.NewClient(p.conn, r, 0)
	if err != nil {
		return nil, p.startError(err)
	}
	i := &framedInstance{p: p, c: c}
	go i.watch()
	return i, nil
}

// startError ends a process that did not become ready and adds to the reason what
// it wrote and how it ended.
func (p *process) startError(cause error) error {
	switch core.CodeOf(cause) {
	case core.CodePluginError, core.CodeConfigInvalid:
		p.finish(context.Background(), 0)
		return cause
	case core.CodePluginCrashed:
		err := p.crashError(cause)
		p.finish(context.Background(), 0)
		return err
	}
	p.finish(context.Background(), 0)
	if last := p.tail.String(); last != "" {
		return core.Errorf("", core.CodeOf(cause), "%w; last lines of stderr:\n%s", cause, last)
	}
	return cause
}

// watch sees the end of the stream or of the process and makes sure of the other.
func (i *framedInstance) watch() {
	select {
	case <-i.c.Done():
	case <-i.p.exited:
		// A descendant may hold the stream open.
		_ = i.c.Close()
	}
	if c := i.c.Err(); errors.Is(c, framed.ErrStuck) || errors.Is(c, framed.ErrFrame) {
		i.p.kill()
	}
	i.p.finish(context.Background(), exitPatience/4)
}

func (i *framedInstance) call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	out, err := i.c.Call(ctx, method, payload)
	if err != nil {
		return nil, i.explain(ctx, err)
	}
	return out, nil
}

func (i *framedInstance) callBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	out, err := i.c.CallBatch(ctx, method, payloads)
	if err != nil {
		return nil, i.explain(ctx, err)
	}
	return out, nil
}

// explain adds to a broken stream how the process ended.
func (i *framedInstance) explain(ctx context.Context, err error) error {
	if core.CodeOf(err) != core.CodePluginCrashed {
		return err
	}
	if ctx.Err() != nil {
		return core.Wrap("", core.CodeDeadlineExceeded, ctx.Err())
	}
	return i.exit()
}

func (i *framedInstance) containment() core.Containment { return i.p.contain }
func (i *framedInstance) pid() int                      { return i.p.childID }
func (i *framedInstance) done() <-chan struct{}         { return i.c.Done() }

func (i *framedInstance) exit() error {
	cause := i.c.Err()
	if errors.Is(cause, framed.ErrFrame) || errors.Is(cause, framed.ErrStuck) {
		return i.p.crashError(cause)
	}
	return i.p.crashError(nil)
}

func (i *framedInstance) stop(ctx context.Context) error {
	return i.halt.do(func() error {
		i.c.Shutdown()
		i.p.finish(ctx, stopPatience)
		return i.c.Close()
	})
}
