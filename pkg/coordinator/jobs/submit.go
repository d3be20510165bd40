package jobs

import (
	"context"
	"errors"
	"io"
	"strconv"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	chunkItems = 512     // items made durable together
	chunkBytes = 2 << 20 // payload bytes made durable together
	maxLineID  = 1 << 10 // bytes of a line's id, which travels with the item and its result

	// maxFlushing bounds the chunks on their way to disk, of all submissions: their
	// memory stays well within what the queue allows, which would refuse more.
	maxFlushing = 8
)

// chunk gathers items on their way to disk.
type chunk struct {
	first   int64 // index of the first item
	next    int64 // index of the next item
	bytes   int
	queue   []core.NewItem
	results changes // of lines that have one already
	spec    core.JobSpec
}

func (c *chunk) full() bool { return c.next-c.first >= chunkItems || c.bytes >= chunkBytes }

// Submit implements [core.Jobs].
func (b *Book) Submit(ctx context.Context, spec core.JobSpec, next func() (core.JobItem, error)) (core.Job, error) {
	const op = "jobs: submit"
	if err := checkSpec(spec); err != nil {
		return core.Job{}, err
	}
	id := spec.ID
	if id == (core.JobID{}) {
		id = core.NewJobID()
	}
	spec.ID = id
	if _, err := core.Get(ctx, b.cfg.Storage, jobKey(id)); !core.IsCode(err, core.CodeNotFound) {
		if err == nil {
			err = core.Errorf(op, core.CodeAlreadyExists, "there is a job %s already", id)
		}
		return core.Job{}, core.WithOp(op, err)
	}
	j := &job{id: id, row: jobRow{Spec: spec, State: core.JobOpen, CreatedAt: time.Now()}}
	known, err := b.finishedBefore(ctx, spec)
	if err != nil {
		return core.Job{}, core.WithOp(op, err)
	}
	if err := b.writeJob(ctx, j, j.row); err != nil {
		return core.Job{}, core.WithOp(op, err)
	}
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return core.Job{}, core.Errorf(op, core.CodeClosed, "the coordinator is stopping")
	}
	b.activate(j)
	b.mu.Unlock()

	n, err := b.takeItems(ctx, j, known, next)
	if err == nil {
		err = b.completeSubmission(ctx, j, n)
	}
	if err != nil {
		// What was finished stays; the rest of a submission that broke off is not
		// worth computing without its other half.
		if gerr := b.giveUp(b.run, j, core.CodeCanceled, "the submission broke off after "+plural(n, "item")); gerr != nil && !errGone(gerr) {
			err = errors.Join(err, gerr)
		}
		return core.Job{}, core.WithOp(op, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.public(j), nil
}

func checkSpec(s core.JobSpec) error {
	switch {
	case s.Plugin == "":
		return core.Errorf("jobs: submit", core.CodeInvalidArgument, "no plugin is named")
	case s.Method == "" || len(s.Method) > core.MaxMethodLen:
		return core.Errorf("jobs: submit", core.CodeInvalidArgument, "the method must have 1 to %d bytes", core.MaxMethodLen)
	case s.MaxAttempts < 0 || s.MaxLosses < 0 || s.ItemTimeout < 0:
		return core.Errorf("jobs: submit", core.CodeInvalidArgument, "maxima and timeouts must not be negative")
	case !s.Deadline.IsZero() && time.Until(s.Deadline) <= 0:
		return core.Errorf("jobs: submit", core.CodeInvalidArgument, "the deadline has passed already")
	}
	return nil
}

// takeItems reads items to their end and makes them durable chunk by chunk. It
// returns how many there were.
func (b *Book) takeItems(ctx context.Context, j *job, known finished, next func() (core.JobItem, error)) (int64, error) {
	b.mu.Lock()
	c := &chunk{spec: j.row.Spec} // workers may pull, and so change the row, from now on
	b.mu.Unlock()
	for {
		if err := ctx.Err(); err != nil {
			return c.next, core.Wrap("jobs: submit", core.CodeCanceled, err)
		}
		item, err := next()
		if errors.Is(err, io.EOF) {
			return c.next, b.flush(ctx, j, c)
		}
		if err != nil {
			return c.next, err
		}
		if err := b.addItem(ctx, j, c, known, item); err != nil {
			return c.next, err
		}
		if c.full() {
			if err := b.flush(ctx, j, c); err != nil {
				return c.next, err
			}
		}
	}
}

// addItem puts one line into the chunk: as a result where it has one already, as
// an item of the queue otherwise.
func (b *Book) addItem(ctx context.Context, j *job, c *chunk, known finished, item core.JobItem) error {
	index := c.next
	c.next++
	if item.Err != nil {
		return c.addResult(j.id, index, resultRow{Outcome: outcomeError, ID: item.ID[:min(len(item.ID), maxLineID)], Code: uint16(item.Err.Code), Message: item.Err.Message})
	}
	if len(item.ID) > maxLineID {
		return c.addResult(j.id, index, resultRow{Outcome: outcomeError, ID: item.ID[:maxLineID], Code: uint16(core.CodeInvalidArgument), Message: "the line's id has " + plural(int64(len(item.ID)), "byte") + ", at most " + strconv.Itoa(maxLineID) + " are taken"})
	}
	if len(item.Payload) > core.MaxCallPayload {
		return c.addResult(j.id, index, resultRow{Outcome: outcomeError, ID: item.ID, Code: uint16(core.CodeTooLarge), Message: "the line has " + plural(int64(len(item.Payload)), "byte") + ", which is more than a plugin may be given"})
	}
	hash := inputHash(item.Payload)
	row, ok, err := b.lookUp(ctx, known, hash)
	if err != nil {
		return err
	}
	if ok {
		row.ID, row.Resumed = item.ID, true
		return c.addResult(j.id, index, row)
	}
	e := envelope{Index: index, ID: item.ID, Input: hash, Payload: item.Payload}
	if len(item.Payload) > core.MaxInlinePayload {
		info, err := core.PutBlob(ctx, b.cfg.Objects, item.Payload, "application/json")
		if err != nil {
			return err
		}
		e.Payload, e.Content = nil, info.ID[:]
	}
	payload, err := encodeEnvelope(e)
	if err != nil {
		return err
	}
	c.bytes += len(payload)
	c.queue = append(c.queue, core.NewItem{
		Payload: payload, Priority: c.spec.Priority,
		MaxAttempts: orDefault(c.spec.MaxAttempts, b.cfg.MaxAttempts), MaxLosses: orDefault(c.spec.MaxLosses, b.cfg.MaxLosses),
	})
	return nil
}

func (c *chunk) addResult(id core.JobID, index int64, row resultRow) error {
	if err := c.results.put(resultKey(id, index), row); err != nil {
		return err
	}
	c.bytes += len(c.results.writes[len(c.results.writes)-1].Value)
	return nil
}

// flush makes a chunk durable and empties it.
func (b *Book) flush(ctx context.Context, j *job, c *chunk) error {
	if !b.enter(j) {
		return core.Errorf("jobs: submit", core.CodeCanceled, "the job was cancelled while its items were being submitted")
	}
	defer b.exit(j)
	if err := b.recordResults(ctx, j, c.results, 1); err != nil {
		return err
	}
	if len(c.queue) > 0 {
		select {
		case b.flushing <- struct{}{}:
		case <-ctx.Done():
			return core.Wrap("jobs: submit", core.CodeCanceled, ctx.Err())
		}
		_, err := b.cfg.Queue.Enqueue(ctx, queueOf(j.id), c.queue)
		<-b.flushing
		if err != nil {
			return err
		}
	}
	b.mu.Lock()
	j.counts.Items = c.next
	j.tell()
	b.mu.Unlock()
	*c = chunk{first: c.next, next: c.next, spec: c.spec}
	return nil
}

// completeSubmission turns an open job into a running one.
func (b *Book) completeSubmission(ctx context.Context, j *job, items int64) error {
	if err := b.markComplete(ctx, j, items); err != nil {
		return err
	}
	return b.finishIfDone(ctx, j)
}

func (b *Book) markComplete(ctx context.Context, j *job, items int64) error {
	j.saving.Lock()
	defer j.saving.Unlock()
	b.mu.Lock()
	row := j.row
	stopped := j.stopped
	b.mu.Unlock()
	if stopped {
		return core.Errorf("jobs: submit", core.CodeCanceled, "the job was cancelled while its items were being submitted")
	}
	row.State, row.Items = core.JobRunning, items
	row.Counts.Items = items
	if err := b.writeJob(ctx, j, row, jobEvent(core.TopicJobSubmitted, j.id, row)); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	j.row, j.counts.Items = row, items
	j.tell()
	return nil
}

func orDefault(v, def int) int {
	if v == 0 {
		return def
	}
	return v
}
