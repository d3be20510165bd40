package cabi

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/parts"
)

// caller makes the calls of a batch: [Plugin.Call] and its like.
type caller struct {
	one  func(ctx context.Context, method string, payload []byte) ([]byte, error)
	many func(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error)
}

// CallBatch runs one method for many payloads, through the plugin's call_batch
// where it has one. The error is set only when no payload was answered.
func (p *Plugin) CallBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	return p.callBatch(ctx, method, payloads, caller{one: p.Call, many: p.callNative})
}

// CallBatchHere is [Plugin.CallBatch] in the manner of [Plugin.CallHere].
func (p *Plugin) CallBatchHere(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	return p.callBatch(ctx, method, payloads, caller{one: p.CallHere, many: p.callNativeHere})
}

func (p *Plugin) callBatch(ctx context.Context, method string, payloads [][]byte, c caller) ([]core.CallResult, error) {
	return parts.Answer(payloads, parts.BySize, func(part [][]byte) ([]core.CallResult, error) {
		return p.callPart(ctx, method, part, c)
	})
}

// callPart answers a part of a batch. The error is set when nothing of the part
// was answered.
func (p *Plugin) callPart(ctx context.Context, method string, payloads [][]byte, c caller) ([]core.CallResult, error) {
	if p.code.HasBatch() {
		return c.many(ctx, method, payloads)
	}
	results := make([]core.CallResult, len(payloads))
	for i, payload := range payloads {
		out, err := c.one(ctx, method, payload)
		if i == 0 && stopsAll(err) {
			return nil, err
		}
		results[i] = core.CallResult{Result: out, Err: err}
	}
	return results, nil
}

// stopsAll tells whether err concerns every call of the plugin, not one payload.
func stopsAll(err error) bool {
	switch core.CodeOf(err) {
	case core.CodePluginPoisoned, core.CodeClosed, core.CodeCanceled, core.CodeDeadlineExceeded:
		return err != nil
	}
	return false
}

func (p *Plugin) callNativeHere(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	if err := p.enter(ctx); err != nil {
		return nil, err
	}
	defer p.leave()
	return p.code.CallBatch(method, payloads)
}

func (p *Plugin) callNative(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	if _, ok := ctx.Deadline(); !ok {
		return p.callNativeHere(ctx, method, payloads)
	}
	kept := make([][]byte, len(payloads))
	for i, payload := range payloads {
		kept[i] = append([]byte(nil), payload...)
	}
	a, err := p.run(ctx, func() (answer, error) {
		results, err := p.code.CallBatch(method, kept)
		return answer{results: results}, err
	})
	return a.results, err
}
