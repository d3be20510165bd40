package worker

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// link is a connection to the coordinator, as the worker uses it.
type link interface {
	core.Registry
	Acknowledge(ctx context.Context, r core.CommandResult) error
	// Subscribe is [core.Control]'s and calls opened once the coordinator has the
	// stream.
	Subscribe(ctx context.Context, w core.WorkerRef, after uint64, opened func(), send func(core.Command) error) error
	// Beats opens the heartbeat stream. It ends with ctx.
	Beats(ctx context.Context) (beatStream, error)
	Close() error
}

// beatStream carries beats. It belongs to one goroutine.
type beatStream interface {
	// Send hands a beat to the network and does not wait for it.
	Send(h core.Heartbeat)
	// Answers delivers one answer for each beat while the stream lives.
	Answers() <-chan answer
	// Close ends the stream and waits for what it started.
	Close() error
}

// answer is what became of one beat.
type answer struct {
	ack   core.BeatAck
	err   error
	final bool // the stream is over with it
}

// dialer makes links. It enrols the worker first when it has no valid certificate.
type dialer interface {
	dial(ctx context.Context) (link, error)
	// stale reports whether err is the answer of a coordinator that was replaced.
	stale(err error) bool
	// coordinatorEpoch returns the highest epoch of a coordinator seen so far.
	coordinatorEpoch() uint64
	// keep looks after the worker's certificate until ctx ends.
	keep(ctx context.Context)
}

// refused reports whether err says that this worker will never be taken.
func refused(err error) bool {
	switch core.CodeOf(err) {
	case core.CodeUnauthenticated, core.CodePermissionDenied, core.CodeVersionMismatch, core.CodeConfigInvalid, core.CodeInvalidArgument:
		return err != nil
	}
	return false
}
