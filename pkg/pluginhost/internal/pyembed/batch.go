package pyembed

import (
	"context"
	"encoding/binary"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/framed"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/parts"
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
	return parts.Answer(payloads, parts.BySize, func(part [][]byte) ([]core.CallResult, error) {
		return i.callPart(ctx, method, part)
	})
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
