package transport

import (
	"errors"
	"strconv"
	"sync/atomic"

	"google.golang.org/grpc/metadata"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// epochHeader is the header of every answer that carries the coordinator's epoch.
const epochHeader = "rollout-coordinator-epoch"

// EpochGuard refuses answers of a coordinator that has been replaced. It remembers
// the highest epoch seen. Share one among all connections of a process, and keep
// [EpochGuard.Epoch] across restarts.
type EpochGuard struct{ seen atomic.Uint64 }

// NewEpochGuard returns a guard that has seen an epoch already; 0: none.
func NewEpochGuard(seen uint64) *EpochGuard {
	g := &EpochGuard{}
	g.seen.Store(seen)
	return g
}

// Epoch returns the highest epoch seen, 0: none.
func (g *EpochGuard) Epoch() uint64 { return g.seen.Load() }

// Observe remembers epoch. One that is lower than the highest seen is
// [core.CodeFenced]: the answer that carries it must not be acted on.
func (g *EpochGuard) Observe(epoch uint64) error {
	for {
		seen := g.seen.Load()
		if epoch < seen {
			return core.Errorf("", core.CodeFenced, "the coordinator answers with epoch %d, but epoch %d has been seen: %w", epoch, seen, errReplaced)
		}
		if epoch == seen || g.seen.CompareAndSwap(seen, epoch) {
			return nil
		}
	}
}

// errReplaced marks what an [EpochGuard] refuses.
var errReplaced = errors.New("it has been replaced")

// IsReplaced reports whether err is the refusal of a coordinator that is older than
// one seen before. It says nothing about the caller's own epoch; its successor is to
// be waited for.
func IsReplaced(err error) bool { return errors.Is(err, errReplaced) }

// observeHeader checks the header of an answer.
func (g *EpochGuard) observeHeader(md metadata.MD) error {
	epoch, err := epochOf(md)
	if err != nil {
		return err
	}
	return g.observe(epoch)
}

// answered reports whether a header comes from a coordinator, not from gRPC itself.
func answered(md metadata.MD) bool { return len(md.Get(epochHeader)) > 0 }

// epochOf reads the epoch in the header of an answer.
func epochOf(md metadata.MD) (uint64, error) {
	v := md.Get(epochHeader)
	if len(v) != 1 {
		return 0, errNoEpoch()
	}
	epoch, err := strconv.ParseUint(v[0], 10, 64)
	if err != nil {
		return 0, core.Errorf("", core.CodeVersionMismatch, "the answer carries %q as coordinator epoch", clipText(v[0]))
	}
	return epoch, nil
}

// observe is [EpochGuard.Observe] for an answer, which must carry an epoch.
func (g *EpochGuard) observe(epoch uint64) error {
	if epoch == 0 {
		return errNoEpoch()
	}
	return g.Observe(epoch)
}

func errNoEpoch() error {
	return core.Errorf("", core.CodeVersionMismatch, "the answer carries no coordinator epoch: the other side is not a coordinator of this system")
}
