package coordinator

import (
	"context"
	"slices"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// maxPending bounds the commands that wait for one worker.
const maxPending = 256

// book is one worker's commands. Memory and store hold the same one.
type book struct {
	seq     uint64         // of the last command given, or seen by the worker
	acked   uint64         // of the last command acknowledged
	pending []core.Command // not acknowledged, ascending
	results []commandAck   // the last answers, ascending
}

// become takes over what the store holds now.
func (b *book) become(stored book) {
	stored.seq = max(stored.seq, b.seq)
	*b = stored
}

// atLeast makes the next command's number higher than one that the worker has
// seen: a store restored from an old copy must not use a number twice.
func (b *book) atLeast(seen uint64) {
	if seen <= maxEpoch {
		b.seq = max(b.seq, seen)
	}
}

// acknowledge records an answer, which covers every command up to its number.
func (b *book) acknowledge(a commandAck) {
	b.acked, b.seq = max(b.acked, a.Seq), max(b.seq, a.Seq)
	b.results = append(slices.Clone(b.results), a)
	if n := len(b.results); n > keptResults {
		b.results = b.results[n-keptResults:]
	}
	b.pending = slices.DeleteFunc(slices.Clone(b.pending), func(cmd core.Command) bool { return cmd.Seq <= a.Seq })
}

// leave answers what is open when a worker leaves: a drain is done by it.
func (b *book) leave(ref core.WorkerRef, final core.WorkerState) {
	for _, cmd := range b.pending {
		a := commandAck{Epoch: ref.Epoch, Seq: cmd.Seq, Code: core.CodeUnavailable, Detail: "the worker left before it answered"}
		if cmd.Kind == core.CommandDrain && final == core.StateDone {
			a.Code, a.Detail = core.CodeUnknown, "the worker left"
		}
		b.acknowledge(a)
	}
}

// answer finds what answered a command.
func (b *book) answer(seq uint64) (commandAck, bool) {
	for _, a := range b.results {
		if a.Seq >= seq {
			return a, true
		}
	}
	return commandAck{}, false
}

// load reads one row of a worker's commands into the book.
func (b *book) load(e core.Entry) error {
	if len(e.Key.Path) == 1 {
		var row bookRow
		if err := decodeRow(e, &row); err != nil {
			return err
		}
		b.seq, b.acked, b.results = row.Seq, row.Acked, row.Results
		return nil
	}
	seq, err := lastSegment(e.Key)
	if err != nil {
		return err
	}
	var row commandRow
	if err := decodeRow(e, &row); err != nil {
		return err
	}
	b.pending = append(b.pending, core.Command{
		Seq: seq, Kind: row.Kind, Reason: row.Reason, Plugin: row.Plugin, Job: row.Job, IssuedAt: row.IssuedAt,
	})
	return nil
}

// book reads a worker's commands.
func (b *batch) book(ctx context.Context, id core.WorkerID) (*book, error) {
	es, err := b.tx.Scan(ctx, bookKey(id), core.ScanOptions{})
	if err != nil {
		return nil, err
	}
	bk := &book{}
	for _, e := range es {
		if err := bk.load(e); err != nil {
			return nil, err
		}
	}
	return bk, nil
}

// putBook stages the numbers of a book, and the removal of the commands of before
// that are not pending any more.
func (b *batch) putBook(id core.WorkerID, bk *book, before []core.Command) error {
	for _, cmd := range before {
		if !slices.ContainsFunc(bk.pending, func(p core.Command) bool { return p.Seq == cmd.Seq }) {
			b.del(commandKey(id, cmd.Seq))
		}
	}
	return b.put(bookKey(id), bookRow{Seq: bk.seq, Acked: bk.acked, Results: bk.results})
}

// leaveBook stages the answers to what is open when a worker leaves.
func (b *batch) leaveBook(ctx context.Context, ref core.WorkerRef, final core.WorkerState) (*book, error) {
	bk, err := b.book(ctx, ref.ID)
	if err != nil || len(bk.pending) == 0 {
		return bk, err
	}
	before := bk.pending
	bk.leave(ref, final)
	return bk, b.putBook(ref.ID, bk, before)
}

// Acknowledge implements [core.Control].
func (c *Coordinator) Acknowledge(ctx context.Context, r core.CommandResult) error {
	if len(r.Detail) > maxText {
		r.Detail = r.Detail[:maxText]
	}
	ack := commandAck{Epoch: r.Worker.Epoch, Seq: r.Seq, Code: r.Code, Detail: r.Detail}
	var stored *book
	err := c.writer.do(ctx, func(ctx context.Context, b *batch) (err error) {
		stored, err = c.prepareAck(ctx, b, r.Worker, ack)
		return err
	}, func() { c.bookChanged(r.Worker.ID, stored) })
	return core.WithOp("acknowledge", err)
}

// bookChanged puts a stored book into memory; nil means that it did not change.
func (c *Coordinator) bookChanged(id core.WorkerID, stored *book) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.workers[id]; w != nil && stored != nil {
		w.book.become(*stored)
		w.announce()
	}
}

// prepareAck stages an answer and returns the book, or nil when there is nothing to
// answer: the answer is a repetition, or the store has been restored from a copy
// older than the command.
func (c *Coordinator) prepareAck(ctx context.Context, b *batch, ref core.WorkerRef, ack commandAck) (*book, error) {
	if _, err := c.livingRow(ctx, b, ref); err != nil {
		return nil, err
	}
	bk, err := b.book(ctx, ref.ID)
	if err != nil || ack.Seq <= bk.acked || ack.Seq > bk.seq {
		return nil, err
	}
	before := bk.pending
	bk.acknowledge(ack)
	return bk, b.putBook(ref.ID, bk, before)
}

// SendCommand implements [core.Admin].
func (c *Coordinator) SendCommand(ctx context.Context, id core.WorkerID, cmd core.Command) (uint64, error) {
	const op = "send command"
	if err := checkCommand(cmd); err != nil {
		return 0, core.WithOp(op, err)
	}
	// Round strips the monotonic reading, which does not survive the store.
	cmd.IssuedAt = c.wall().UTC().Round(0)
	var stored *book
	err := c.writer.do(ctx, func(ctx context.Context, b *batch) (err error) {
		stored, err = prepareCommand(ctx, b, id, cmd, c.seenCommand(id))
		return err
	}, func() { c.bookChanged(id, stored) })
	if err != nil {
		return 0, core.WithOp(op, err)
	}
	return stored.seq, nil
}

// seenCommand returns the highest command number that memory knows of.
func (c *Coordinator) seenCommand(id core.WorkerID) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if w := c.workers[id]; w != nil {
		return w.book.seq
	}
	return 0
}

func prepareCommand(ctx context.Context, b *batch, id core.WorkerID, cmd core.Command, seen uint64) (*book, error) {
	row, err := b.worker(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case row == nil:
		return nil, core.Errorf("", core.CodeNotFound, "no worker %s is known", id)
	case row.over():
		return nil, core.Errorf("", core.CodeFailedPrecondition, "worker %s is %s", id, row.Liveness)
	}
	bk, err := b.book(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case len(bk.pending) >= maxPending:
		return nil, core.Errorf("", core.CodeExhausted, "%d commands wait for worker %s already", len(bk.pending), id)
	}
	bk.seq = max(bk.seq, seen) + 1
	cmd.Seq = bk.seq
	before := bk.pending
	bk.pending = append(slices.Clone(before), cmd)
	command := commandRow{Kind: cmd.Kind, Reason: cmd.Reason, Plugin: cmd.Plugin, Job: cmd.Job, IssuedAt: cmd.IssuedAt}
	if err := b.put(commandKey(id, cmd.Seq), command); err != nil {
		return nil, err
	}
	return bk, b.putBook(id, bk, before)
}

// checkCommand refuses what no worker could obey.
func checkCommand(cmd core.Command) error {
	missing := ""
	switch cmd.Kind {
	case core.CommandDrain:
	case core.CommandCancel:
		if cmd.Job == (core.JobID{}) {
			missing = "job"
		}
	case core.CommandReload:
		if cmd.Plugin == "" {
			missing = "plugin"
		}
	default:
		return core.Errorf("", core.CodeInvalidArgument, "%.64q is no command, use drain, cancel or reload", string(cmd.Kind))
	}
	if missing != "" {
		return core.Errorf("", core.CodeInvalidArgument, "the command %s names no %s", cmd.Kind, missing)
	}
	if len(cmd.Reason) > maxText || len(cmd.Plugin) > maxText {
		return core.Errorf("", core.CodeInvalidArgument, "a text of the command is longer than %d bytes", maxText)
	}
	return nil
}

// AwaitCommand implements [core.Admin].
func (c *Coordinator) AwaitCommand(ctx context.Context, id core.WorkerID, seq uint64) (core.CommandResult, error) {
	const op = "await command"
	for {
		res, changed, err := c.commandAnswer(id, seq)
		if err != nil || changed == nil {
			return res, core.WithOp(op, err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return core.CommandResult{}, core.Wrap(op, core.CodeCanceled, ctx.Err())
		case <-c.stopping:
			return core.CommandResult{}, core.Errorf(op, core.CodeUnavailable, "the coordinator is stopping")
		}
	}
}

// commandAnswer returns the answer to a command, or what is closed when there may
// be one.
func (c *Coordinator) commandAnswer(id core.WorkerID, seq uint64) (core.CommandResult, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w := c.workers[id]
	switch {
	case w == nil:
		return core.CommandResult{}, nil, core.Errorf("", core.CodeNotFound, "no worker %s is known", id)
	case seq == 0 || seq > w.book.seq:
		return core.CommandResult{}, nil, core.Errorf("", core.CodeNotFound, "command %d was never given to worker %s", seq, id)
	case seq <= w.book.acked:
		a, ok := w.book.answer(seq)
		if !ok {
			return core.CommandResult{}, nil, core.Errorf("", core.CodeNotFound, "the answer to command %d is no longer kept", seq)
		}
		return core.CommandResult{Worker: core.WorkerRef{ID: id, Epoch: a.Epoch}, Seq: a.Seq, Code: a.Code, Detail: a.Detail}, nil, nil
	case w.over():
		return core.CommandResult{}, nil, core.Errorf("", core.CodeUnavailable, "worker %s is %s and has not answered command %d; it will get it when it returns", id, w.liveness, seq)
	}
	return core.CommandResult{}, w.changed, nil
}
