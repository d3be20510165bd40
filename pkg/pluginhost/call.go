package pluginhost

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Call implements [core.PluginHost].
func (h *Host) Call(ctx context.Context, name, method string, payload []byte) ([]byte, error) {
	p, ok := (*h.table.Load())[name]
	if !ok || len(method) > core.MaxMethodLen || len(payload) > core.MaxCallPayload {
		return nil, h.refuse(name, method, len(payload))
	}
	g, err := p.enter(ctx)
	if err != nil {
		return nil, p.failed(ctx, method, err)
	}
	s := g.seat()
	inst, err := s.instance(ctx)
	var out []byte
	if err == nil {
		out, err = inst.call(ctx, method, payload)
	}
	s.load.Add(-1)
	g.leave()
	if err != nil {
		return nil, p.failed(ctx, method, err)
	}
	return out, nil
}

// CallBatch implements [core.PluginHost].
func (h *Host) CallBatch(ctx context.Context, name, method string, payloads [][]byte) ([]core.CallResult, error) {
	p, ok := (*h.table.Load())[name]
	size := 0
	for _, payload := range payloads {
		size = max(size, len(payload))
	}
	if !ok || len(method) > core.MaxMethodLen || size > core.MaxCallPayload {
		return nil, h.refuse(name, method, size)
	}
	if len(payloads) > core.MaxBatchLen {
		return nil, core.Errorf(opCall(name, method), core.CodeTooLarge, "a batch of %d payloads exceeds the limit of %d", len(payloads), core.MaxBatchLen)
	}
	if len(payloads) == 0 {
		return nil, nil
	}
	g, err := p.enter(ctx)
	if err != nil {
		return nil, p.failed(ctx, method, err)
	}
	s := g.seat()
	inst, err := s.instance(ctx)
	var out []core.CallResult
	if err == nil {
		out, err = inst.callBatch(ctx, method, payloads)
	}
	s.load.Add(-1)
	g.leave()
	if err != nil {
		return nil, p.failed(ctx, method, err)
	}
	for i := range out {
		if out[i].Err != nil {
			out[i].Err = p.failed(ctx, method, out[i].Err)
		}
	}
	return out, nil
}

// refuse says what is wrong with a call that reaches no plugin.
func (h *Host) refuse(name, method string, size int) error {
	if _, err := h.lookup(name); err != nil {
		return core.WithOp("call plugin "+name, err)
	}
	if len(method) > core.MaxMethodLen {
		return core.Errorf("call plugin "+name, core.CodeTooLarge, "a method name of %d bytes exceeds the limit of %d", len(method), core.MaxMethodLen)
	}
	return core.Errorf(opCall(name, method), core.CodeTooLarge, "a payload of %d bytes exceeds the limit of %d", size, core.MaxCallPayload)
}

func opCall(name, method string) string { return "plugin " + name + ": call " + method }

// enter takes a reference to the plugin's current generation and a slot of its
// concurrency.
func (p *plugin) enter(ctx context.Context) (*generation, error) {
	if ctx.Done() != nil && ctx.Err() != nil {
		return nil, core.Wrap("", core.CodeCanceled, ctx.Err())
	}
	g := p.cur.Load()
	for g != nil && !g.acquire() {
		g = p.cur.Load()
	}
	if g == nil {
		return nil, core.Errorf("", core.CodeNotFound, "the plugin is being unloaded")
	}
	if !g.slots.TryAcquire(1) {
		if err := g.slots.Acquire(ctx, 1); err != nil {
			g.release()
			return nil, core.Errorf("", core.CodeOf(err), "no free slot: %w", err)
		}
	}
	return g, nil
}

// leave gives slot and reference back.
func (g *generation) leave() {
	g.slots.Release(1)
	g.release()
}

// failed reports a failed call and names the plugin in its error. A caller that
// gave up by itself is no failure of the plugin's.
func (p *plugin) failed(ctx context.Context, method string, err error) error {
	code := core.CodeOf(err)
	if code != core.CodeCanceled {
		p.host.cfg.Events(core.PluginEvent{
			Topic: core.TopicPluginCallError, Level: core.LevelWarn, Info: p.info(), Line: err.Error(),
			Attrs: core.Attrs{"method": method, "code": code.String()},
		})
	}
	return core.WithOp(opCall(p.name, method), err)
}
