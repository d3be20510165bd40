package coordinator

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// subscription is one open control stream.
type subscription struct {
	why  error         // set before over is closed
	over chan struct{} // closed when the stream must end
}

// end closes the stream with a reason. The coordinator's mu is held, and it is
// called once.
func (s *subscription) end(why error) {
	s.why = why
	close(s.over)
}

// Subscribe implements [core.Control].
func (c *Coordinator) Subscribe(ctx context.Context, ref core.WorkerRef, after uint64, send func(core.Command) error) error {
	const op = "subscribe"
	w, sub, err := c.openControl(ref, after)
	if err != nil {
		return core.WithOp(op, err)
	}
	defer c.closeControl(w, sub)
	for {
		next, changed := c.pendingAfter(w, ref, after)
		for _, cmd := range next {
			if err := send(cmd); err != nil {
				return core.WithOp(op, err)
			}
			after = cmd.Seq
		}
		select {
		case <-sub.over:
			return core.WithOp(op, sub.why)
		default:
		}
		select {
		case <-changed:
		case <-sub.over:
			return core.WithOp(op, sub.why)
		case <-ctx.Done():
			return core.Wrap(op, core.CodeCanceled, ctx.Err())
		case <-c.stopping:
			return core.Errorf(op, core.CodeUnavailable, "the coordinator is stopping")
		}
	}
}

// openControl makes a new stream the only one of its worker.
func (c *Coordinator) openControl(ref core.WorkerRef, after uint64) (*worker, *subscription, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, err := c.current(ref)
	if err != nil {
		return nil, nil, err
	}
	if w.control != nil {
		w.control.end(core.Errorf("", core.CodeConflict, "another control stream of worker %s has replaced this one", ref.ID))
	}
	w.control = &subscription{over: make(chan struct{})}
	w.book.atLeast(after)
	return w, w.control, nil
}

func (c *Coordinator) closeControl(w *worker, sub *subscription) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w.control == sub {
		w.control = nil
	}
}

// pendingAfter returns the open commands behind after, and what is closed when
// there may be more.
func (c *Coordinator) pendingAfter(w *worker, ref core.WorkerRef, after uint64) ([]core.Command, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var next []core.Command
	if w.epoch == ref.Epoch {
		for _, cmd := range w.book.pending {
			if cmd.Seq > after {
				next = append(next, cmd)
			}
		}
	}
	return next, w.changed
}
