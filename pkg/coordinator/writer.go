package coordinator

import (
	"context"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	batchOps   = 512         // changes that share one commit
	batchBytes = 8 << 20     // bytes after which a commit takes no further change
	retryFull  = time.Second // wait before what must be stored is tried again on a full disk
)

// op is one change of the coordinator's book. It either happens whole or not at
// all, together with its events.
type op struct {
	// prepare reads through b and stages the change. It may run many times and has
	// no effect outside b but on variables that every run sets anew.
	prepare func(ctx context.Context, b *batch) error
	// done is called once, on the writer's goroutine and in the order of
	// submission, with the outcome. It must not wait. May be nil.
	done func(error)
	// must marks a change that no caller can repeat: it waits for room on a full disk.
	must bool
}

// writer is the only one who writes the coordinator's rows. It puts the changes that
// wait into one transaction, which also proves that this coordinator is the
// newest one, and numbers the events of each change in it.
type writer struct {
	store  core.Storage
	epoch  uint64
	outbox *outbox
	log    *slog.Logger

	wake    chan struct{} // one token: the queue may hold something
	stopped chan struct{} // closed when run has returned

	// mu guards queue, closed and cause. Nothing is called while it is held.
	mu     sync.Mutex
	queue  []*op
	closed bool  // no further op is taken; run ends when the queue is empty
	cause  error // why run ended early
}

func newWriter(s core.Storage, epoch uint64, ob *outbox, log *slog.Logger) *writer {
	return &writer{store: s, epoch: epoch, outbox: ob, log: log, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
}

// submit queues a change and never waits.
func (w *writer) submit(o *op) {
	w.mu.Lock()
	closed, cause := w.closed, w.cause
	if !closed {
		w.queue = append(w.queue, o)
	}
	w.mu.Unlock()
	if closed {
		if o.done != nil {
			// Not on the caller's goroutine, which may hold locks that done takes.
			go o.done(closedError(cause))
		}
		return
	}
	w.poke()
}

func (w *writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default: // a token is there already
	}
}

func closedError(cause error) error {
	if cause != nil {
		return core.WithOp("coordinator is stopping", cause)
	}
	return core.Errorf("coordinator", core.CodeUnavailable, "the coordinator is stopping")
}

// do submits a change and waits until it is durable. When ctx ends first the
// change still happens, or not.
func (w *writer) do(ctx context.Context, prepare func(ctx context.Context, b *batch) error, applied func()) error {
	outcome := make(chan error, 1)
	w.submit(&op{prepare: prepare, done: func(err error) {
		if err == nil && applied != nil {
			applied()
		}
		outcome <- err
	}})
	return await(ctx, outcome)
}

// await waits for the outcome of a submitted change.
func await(ctx context.Context, outcome <-chan error) error {
	select {
	case err := <-outcome:
		return err
	case <-ctx.Done():
		return core.Wrap("coordinator: wait for the store", core.CodeCanceled, ctx.Err())
	}
}

// close lets run end once everything queued is stored.
func (w *writer) close() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.poke()
}

// run stores changes until the writer is closed and its queue empty, or until the
// store or a newer coordinator ends it, which is the error.
func (w *writer) run(ctx context.Context) error {
	defer close(w.stopped)
	for {
		ops, closed := w.take()
		if len(ops) == 0 {
			if closed {
				return nil
			}
			select {
			case <-w.wake:
			case <-ctx.Done():
				return w.fail(nil, core.Wrap("coordinator: store", core.CodeCanceled, ctx.Err()))
			}
			continue
		}
		// A change that was taken is carried through: ctx ends waiting, not commits.
		if err := w.store1(context.WithoutCancel(ctx), ops); err != nil {
			return err
		}
	}
}

func (w *writer) take() (ops []*op, closed bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(len(w.queue), batchOps)
	ops = w.queue[:n:n]
	if w.queue = w.queue[n:]; len(w.queue) == 0 {
		w.queue = nil
	}
	return ops, w.closed
}

// store1 stores ops in as few commits as possible and returns an error only when
// the writer must end.
func (w *writer) store1(ctx context.Context, ops []*op) error {
	for len(ops) > 0 {
		n, err := w.commit(ctx, ops)
		switch {
		case err == nil:
			ops = ops[n:]
		case final(err):
			return w.fail(ops, err)
		case n > 1: // one of them cannot be stored: find out which
			for _, o := range ops[:n] {
				if err := w.store1(ctx, []*op{o}); err != nil {
					return err
				}
			}
			ops = ops[n:]
		case ops[0].must && core.IsCode(err, core.CodeExhausted) && w.waitForRoom():
			w.log.Error("no room to record a change of a worker, trying again", "error", err)
		default:
			if ops[0].must {
				w.log.Error("a change of a worker could not be recorded", "error", err)
			}
			ops[0].finish(err)
			ops = ops[1:]
		}
	}
	return nil
}

// waitForRoom waits a moment and reports whether to try again: not once the writer
// is closed.
func (w *writer) waitForRoom() bool {
	w.mu.Lock()
	closed := w.closed
	w.mu.Unlock()
	if !closed {
		time.Sleep(retryFull)
	}
	return !closed
}

func (o *op) finish(err error) {
	if o.done != nil {
		o.done(err)
	}
}

// final reports whether an error of a commit ends the writer.
func final(err error) bool {
	switch core.CodeOf(err) {
	case core.CodeFenced, core.CodeBroken, core.CodeClosed:
		return true
	}
	return false
}

// fail ends the writer: everything that waits learns why.
func (w *writer) fail(ops []*op, err error) error {
	w.mu.Lock()
	rest := w.queue
	w.queue, w.closed, w.cause = nil, true, err
	w.mu.Unlock()
	for _, o := range ops {
		o.finish(err)
	}
	for _, o := range rest {
		o.finish(err)
	}
	return err
}

// commit puts the head of ops into one transaction and returns how many it took.
// After a nil error those are finished.
func (w *writer) commit(ctx context.Context, ops []*op) (int, error) {
	for {
		n, finish, err := w.attempt(ctx, ops)
		if core.IsCode(err, core.CodeConflict) {
			continue // somebody else changed what was read: read it again
		}
		if err == nil {
			finish()
		}
		return n, err
	}
}

// attempt prepares the head of ops and commits it.
func (w *writer) attempt(ctx context.Context, ops []*op) (n int, finish func(), err error) {
	tx, err := w.store.Begin(ctx)
	if err != nil {
		return 1, nil, err
	}
	defer tx.Discard()
	if err := checkEpoch(ctx, tx, w.epoch); err != nil {
		return 1, nil, err
	}
	b := &batch{tx: tx, seq: w.outbox.lastSeq()}
	refused := make([]error, 0, len(ops))
	for _, o := range ops {
		if b.bytes > batchBytes {
			break
		}
		err := b.run(ctx, o)
		if core.IsCode(err, core.CodeConflict) || b.tainted {
			return n + 1, nil, err
		}
		refused = append(refused, err)
		n++
	}
	printed := w.outbox.unsavedPrinted()
	if printed > 0 {
		if err := tx.Put(printedKey, strconv.AppendUint(nil, printed, 10)); err != nil {
			return n, nil, err
		}
	}
	firstKept, err := w.outbox.prune(tx, b.seq)
	if err != nil {
		return n, nil, err
	}
	if _, err := tx.Commit(ctx); err != nil {
		return n, nil, err
	}
	return n, func() {
		w.outbox.committed(b.seq, firstKept, printed)
		for i, err := range refused {
			ops[i].finish(err)
		}
	}, nil
}
