package pluginsdk

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Plugin is what an author writes.
type Plugin interface {
	// Call runs one method. It may run on many goroutines at once, as many as the
	// manifest's concurrency; ctx ends at the caller's deadline or when the caller
	// gives up, and Call should return then. The payload may be kept, the result must
	// not be changed afterwards. Both have at most 16 MiB.
	//
	// An error reaches the caller with its message, as the plugin's own failure. One
	// made by [Retry] carries a hint; [ErrUnknownMethod] says that there is no such
	// method.
	Call(ctx context.Context, method string, payload []byte) ([]byte, error)
}

// Initer is a [Plugin] that takes a configuration.
type Initer interface {
	// Init is called once, before anything else, with the manifest's config table as
	// one JSON object. An error keeps the plugin from being loaded.
	Init(ctx context.Context, config json.RawMessage) error
}

// Preflighter is a [Plugin] that proves that it can work.
type Preflighter interface {
	// Preflight is called once, after Init; a plugin whose preflight fails is not
	// loaded.
	Preflight(ctx context.Context) error
}

// Batcher is a [Plugin] that answers many payloads at once faster than one by one.
type Batcher interface {
	// CallBatch returns one result for each payload, in order; an error instead of the
	// slice fails them all.
	CallBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error)
}

// Shutdowner is a [Plugin] that has something to release before its process ends.
type Shutdowner interface {
	// Shutdown is called once, when no call runs any more.
	Shutdown(ctx context.Context) error
}

// ErrUnknownMethod is what Call returns, or wraps, for a method it does not have.
var ErrUnknownMethod = errors.New("unknown method")

// Retry returns err with a hint when the same call may be tried again.
func Retry(err error, hint core.RetryHint) error {
	return core.Errorf("", core.CodePluginError, "%w", err).WithRetry(hint)
}
