package coordinator

import (
	"context"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Workbook is the book of work that a coordinator keeps beside the book of workers.
type Workbook interface {
	core.Work
	core.Jobs

	// ReleaseWorker ends everything that a worker's epochs up to w.Epoch hold and
	// returns how many items are ready again. With loss each item counts a lost
	// owner. It may be called again for the same epoch, which then holds nothing.
	ReleaseWorker(ctx context.Context, w core.WorkerRef, loss bool, reason string) (items int, err error)

	// Holding returns how many items an epoch holds now. It answers from memory.
	Holding(w core.WorkerRef) int

	// Close ends every session and what runs behind them.
	Close() error
}

// Workbook returns what [Config.Work] has opened, for a program that submits jobs to its
// own coordinator and reads their results; nil where there is no work. It is valid from
// [Coordinator.Ready] to the end of [Coordinator.Run], which closes it.
func (c *Coordinator) Workbook() Workbook {
	select {
	case <-c.ready:
		return c.work
	default:
		return nil
	}
}

// Record makes rows of others and domain events durable in one transaction that
// proves, as every one of a coordinator does, that no newer one has taken over.
// Empty fields of the events are filled: time, kind, level and run.
func (c *Coordinator) Record(ctx context.Context, writes []core.Write, events ...core.Event) error {
	for i := range events {
		fill := c.event("", core.LevelInfo, core.WorkerID{}, nil)
		set(&events[i].Time, fill.Time)
		set(&events[i].Kind, fill.Kind)
		set(&events[i].Level, fill.Level)
		set(&events[i].RunID, fill.RunID)
	}
	err := c.writer.do(ctx, func(_ context.Context, b *batch) error {
		for _, w := range writes {
			if w.Delete {
				b.del(w.Key)
			} else {
				b.staged = append(b.staged, stagedRow{w.Key, append([]byte{}, w.Value...)})
			}
		}
		b.events = append(b.events, events...)
		return nil
	}, nil)
	return core.WithOp("record", err)
}

// CancelOn tells a worker to stop working on a job. A worker that is gone needs no
// telling.
func (c *Coordinator) CancelOn(ctx context.Context, worker core.WorkerID, job core.JobID) error {
	_, err := c.SendCommand(ctx, worker, core.Command{Kind: core.CommandCancel, Job: job, Reason: "the job was cancelled"})
	if core.IsCode(err, core.CodeNotFound) || core.IsCode(err, core.CodeFailedPrecondition) {
		return nil
	}
	return err
}

// Attach implements [core.Work]: it opens the session in the [Workbook], and beats
// that count on an open work stream are accepted until the session is closed. A
// coordinator without a workbook is [core.CodeUnsupported].
func (c *Coordinator) Attach(ctx context.Context, ref core.WorkerRef, plugins []core.LoadedPlugin, holding []core.Lease) (core.WorkSession, error) {
	const op = "attach"
	if c.work == nil {
		return nil, core.Errorf(op, core.CodeUnsupported, "this coordinator keeps no work")
	}
	release, err := c.openWork(ref)
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	s, err := c.work.Attach(ctx, ref, plugins, holding)
	if err != nil {
		release()
		return nil, core.WithOp(op, err)
	}
	return &workSession{WorkSession: s, c: c, ref: ref, release: release}, nil
}

// workSession is a session that ends, as the book of workers sees it, with the
// worker's epoch, and whose end that book is told.
type workSession struct {
	core.WorkSession
	c       *Coordinator
	ref     core.WorkerRef
	release func()
}

// Pull implements [core.WorkSession].
func (s *workSession) Pull(ctx context.Context, budget core.PullBudget) ([]core.WorkItem, error) {
	if err := s.c.living(s.ref); err != nil {
		return nil, core.WithOp("pull", err)
	}
	return s.WorkSession.Pull(ctx, budget)
}

// Submit implements [core.WorkSession]. A worker that was declared failed is refused
// at once, even before its leases are taken away.
func (s *workSession) Submit(ctx context.Context, results []core.WorkResult) ([]error, error) {
	if err := s.c.living(s.ref); err != nil {
		return nil, core.WithOp("submit", err)
	}
	return s.WorkSession.Submit(ctx, results)
}

// Close implements [core.WorkSession].
func (s *workSession) Close() error {
	s.release()
	return s.WorkSession.Close()
}

// living returns nil for an epoch that is not over, else [core.CodeFenced].
func (c *Coordinator) living(ref core.WorkerRef) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.current(ref)
	return err
}

// openWork records that a work stream of an epoch is open. release may be called
// more than once.
func (c *Coordinator) openWork(ref core.WorkerRef) (release func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, err := c.current(ref)
	if err != nil {
		return nil, err
	}
	w.work++
	open := true
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if open && w.epoch == ref.Epoch && w.work > 0 {
			w.work--
		}
		open = false
	}, nil
}

// startWork opens the workbook, once the writer runs.
func (c *Coordinator) startWork(ctx context.Context) error {
	if c.cfg.Work == nil {
		return nil
	}
	w, err := c.cfg.Work(ctx, c)
	if err != nil {
		return err
	}
	c.work = w
	return nil
}

// owed is an ended epoch whose work has still to be returned.
type owed struct {
	ref    core.WorkerRef
	loss   bool
	reason string
}

// owe remembers ended epochs whose rows say that their work is still out. held ones
// wait for the brake of a mass failure. mu is held.
func (c *Coordinator) owe(held bool, os ...owed) {
	if len(os) == 0 || c.cfg.Work == nil {
		return
	}
	if held {
		c.owedSlow = append(c.owedSlow, os...)
	} else {
		c.owedNow = append(c.owedNow, os...)
	}
	select {
	case c.returnWork <- struct{}{}:
	default: // a token is there already
	}
}

// unhold forgets what is held back of one worker: it is back, and its new row's
// debts are owed at once. mu is held.
func (c *Coordinator) unhold(id core.WorkerID) {
	c.owedSlow = slices.DeleteFunc(c.owedSlow, func(o owed) bool { return o.ref.ID == id })
}

// nextOwed takes the next epoch to return. When nothing may be returned yet, wait
// is how long until then; 0: until something new is owed.
func (c *Coordinator) nextOwed() (o owed, wait time.Duration, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	switch {
	case len(c.owedNow) > 0:
		o, c.owedNow = c.owedNow[0], c.owedNow[1:]
		return o, 0, true
	case len(c.owedSlow) == 0:
		return o, 0, false
	case now < c.slowNext:
		return o, c.slowNext - now, false
	}
	o, c.owedSlow = c.owedSlow[0], c.owedSlow[1:]
	c.slowNext = now + time.Duration(float64(time.Second)/c.cfg.RequeueRate)
	return o, 0, true
}

// retryOwed is the pause after work that could not be returned: a store that fails is
// not helped by being asked all the time.
const retryOwed = time.Second

// pause waits and reports false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// returnOwed returns the work of ended epochs: at once, or after a mass failure at
// RequeueRate workers a second.
func (c *Coordinator) returnOwed(ctx context.Context) error {
	for {
		o, wait, ok := c.nextOwed()
		if !ok {
			if !c.awaitOwed(ctx, wait) {
				return nil
			}
			continue
		}
		if _, err := c.work.ReleaseWorker(ctx, o.ref, o.loss, o.reason); err != nil {
			if ctx.Err() != nil {
				return nil // the row still says what is owed
			}
			c.log.Error("the work of a lost worker could not be returned, trying again", "worker_id", o.ref.ID.String(), "epoch", o.ref.Epoch, "error", err)
			c.mu.Lock()
			c.owe(true, o)
			c.mu.Unlock()
			if !pause(ctx, retryOwed) {
				return nil
			}
			continue
		}
		// Nobody waits for this: a crash before it only returns nothing once more.
		c.writer.submit(&op{prepare: func(ctx context.Context, b *batch) error { return prepareSettled(ctx, b, o.ref) }})
	}
}

func (c *Coordinator) awaitOwed(ctx context.Context, wait time.Duration) bool {
	var timeout <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		timeout = t.C
	}
	select {
	case <-c.returnWork:
	case <-timeout:
	case <-ctx.Done():
		return false
	}
	return true
}

// prepareSettled stages that nothing is owed any more for epochs up to ref's.
func prepareSettled(ctx context.Context, b *batch, ref core.WorkerRef) error {
	row, err := b.worker(ctx, ref.ID)
	if err != nil || row == nil {
		return err
	}
	rest := row.Owed[:0]
	for _, o := range row.Owed {
		if o.Epoch > ref.Epoch {
			rest = append(rest, o)
		}
	}
	if len(rest) == len(row.Owed) {
		return nil
	}
	row.Owed = rest
	return b.put(workerKey(ref.ID), row)
}

// owing stages in the row that the work of its epoch has to be returned.
func (c *Coordinator) owing(row *workerRow, loss bool, reason string) {
	if c.cfg.Work != nil {
		row.Owed = append(row.Owed, owedRow{Epoch: row.Epoch, Loss: loss, Reason: reason})
	}
}

// owedOf returns what a row owes.
func (r *workerRow) owedOf() []owed {
	out := make([]owed, len(r.Owed))
	for i, o := range r.Owed {
		out[i] = owed{ref: core.WorkerRef{ID: r.ID, Epoch: o.Epoch}, loss: o.Loss, reason: o.Reason}
	}
	return out
}
