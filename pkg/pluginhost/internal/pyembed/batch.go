package pyembed

import (
	"context"
	"encoding/binary"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/framed"
)

// maxBatchResult bounds the answer to one run of a batch, in bytes: what a part of
// one maximal payload can sensibly come to, and no reason to end the process.
const maxBatchResult = 256 << 20

// CallBatch runs one method for many payloads, in the plugin's call_batch where it
// has one. The error is set only when no payload was answered.
func (i *Instance) CallBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	select {
	case <-i.closing:
		return nil, errClosed()
	default:
	}
	results := make([]core.CallResult, 0, len(payloads))
	for len(results) < len(payloads) {
		rest := payloads[len(results):]
		n := partLen(rest)
		part, err := i.callPart(ctx, method, rest[:n])
		if err != nil && len(results) == 0 {
			return nil, err
		}
		for err != nil && len(part) < n {
			part = append(part, core.CallResult{Err: err})
		}
		results = append(results, part...)
	}
	return results, nil
}

// partLen bounds one run by the bytes that it copies.
func partLen(payloads [][]byte) int {
	total := 0
	for i, b := range payloads {
		total += len(b)
		if total > core.MaxCallPayload && i > 0 {
			return i
		}
	}
	return len(payloads)
}

func (i *Instance) callPart(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	packed := binary.BigEndian.AppendUint32(nil, uint32(len(payloads)))
	for _, b := range payloads {
		packed = binary.BigEndian.AppendUint32(packed, uint32(len(b)))
		packed = append(packed, b...)
	}
	out, err := i.do(ctx, runBatch, method, packed)
	if err != nil {
		return nil, err
	}
	return framed.ParseBatchResult(out, len(payloads))
}
