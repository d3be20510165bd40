package jobs

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// commit is one result between its arrival and its row.
type commit struct {
	pos  int // in the caller's batch
	job  *job
	held heldItem
	row  resultRow
	hint core.RetryHint
	// again tells that the failure may be retried: the item is handed back.
	again bool
}

// Submit implements [core.WorkSession].
func (s *session) Submit(ctx context.Context, results []core.WorkResult) ([]error, error) {
	const op = "work: submit"
	if s.ctx.Err() != nil {
		return nil, s.cause(ctx, s.ctx.Err())
	}
	out := make([]error, len(results))
	var acks, nacks []*commit
	defer func() {
		for _, c := range append(acks, nacks...) {
			s.book.exit(c.job)
		}
	}()
	for i, r := range results {
		c, err := s.prepare(ctx, r)
		if err != nil {
			out[i] = core.WithOp(op, err)
			continue
		}
		c.pos = i
		if c.again {
			nacks = append(nacks, c)
		} else {
			acks = append(acks, c)
		}
	}
	if err := s.commitAcks(ctx, acks, out); err != nil {
		return nil, core.WithOp(op, err)
	}
	if err := s.commitNacks(ctx, nacks, out); err != nil {
		return nil, core.WithOp(op, err)
	}
	s.book.finishAll(ctx, acks, nacks)
	return out, nil
}

// prepare checks a result and makes its row. On success the job is entered.
func (s *session) prepare(ctx context.Context, r core.WorkResult) (*commit, error) {
	b := s.book
	lost := core.Errorf("", core.CodeLeaseLost, "the lease on item %d of queue %q no longer holds", r.Lease.Item, r.Lease.Queue)
	b.mu.Lock()
	h, ok := s.held[r.Lease.Token]
	j := b.active[h.job]
	b.mu.Unlock()
	if !ok || h.lease != r.Lease || j == nil || r.Lease.Owner != s.ref.ID || r.Lease.Epoch != s.ref.Epoch {
		return nil, lost
	}
	c := &commit{job: j, held: h}
	c.row = resultRow{ID: h.id, Input: h.input, Attempts: h.attempt, Worker: s.ref.ID[:]}
	if err := c.outcome(ctx, b, r); err != nil {
		return nil, err
	}
	if !b.enter(j) {
		return nil, lost
	}
	return c, nil
}

// outcome decides what a result means.
func (c *commit) outcome(ctx context.Context, b *Book, r core.WorkResult) error {
	if r.Err == nil {
		c.row.Outcome, c.row.Result = outcomeOK, r.Result
		if !r.Content.IsZero() {
			there, err := b.cfg.Objects.Exists(ctx, r.Content)
			if err != nil {
				return err
			}
			if !there {
				return core.Errorf("", core.CodeFailedPrecondition, "the result's content %s has not been uploaded", r.Content)
			}
			c.row.Result, c.row.Content = nil, r.Content[:]
		} else if len(r.Result) > core.MaxInlinePayload {
			return core.Errorf("", core.CodeTooLarge, "a result of %d bytes must be uploaded as content", len(r.Result))
		}
		return nil
	}
	code := core.CodeOf(r.Err)
	c.row.Outcome, c.row.Code, c.row.Message = outcomeError, uint16(code), clip(r.Err.Error())
	c.hint = core.RetryOf(r.Err)
	c.again = c.hint.Kind != core.RetryNever || retriedAnyway(code)
	if c.again && c.hint.Kind == core.RetryNever {
		c.hint = core.CodeTransient.DefaultRetry()
	}
	return nil
}

// retriedAnyway names codes that say nothing against another try elsewhere: the
// call was stuck, or its worker could not finish it.
func retriedAnyway(code core.Code) bool {
	switch code {
	case core.CodeDeadlineExceeded, core.CodePluginPoisoned, core.CodePluginCrashed, core.CodeCanceled, core.CodeBroken, core.CodeClosed:
		return true
	}
	return false
}

// maxMessage is how many bytes of a plugin's message a result keeps.
const maxMessage = 16 << 10

func clip(s string) string {
	if len(s) > maxMessage {
		return s[:maxMessage] + "..."
	}
	return s
}

// commitAcks stores final outcomes with their leases.
func (s *session) commitAcks(ctx context.Context, cs []*commit, out []error) error {
	if len(cs) == 0 {
		return nil
	}
	acks := make([]core.Ack, len(cs))
	for i, c := range cs {
		value, err := encodeResult(c.row)
		if err != nil {
			return err
		}
		acks[i] = core.Ack{Lease: c.held.lease, Writes: []core.Write{{Key: resultKey(c.held.job, c.held.index), Value: value}}}
	}
	errs, err := s.book.cfg.Queue.Ack(ctx, acks)
	if err != nil {
		return err
	}
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	for i, c := range cs {
		out[c.pos] = errs[i]
		delete(s.held, c.held.lease.Token)
		if errs[i] == nil {
			c.job.count(c.row, 1)
			c.job.counts.Leased--
			c.job.tell()
		}
	}
	return nil
}

// commitNacks hands failed items back; those whose attempts are used up are dead
// and get their result in the same transaction.
func (s *session) commitNacks(ctx context.Context, cs []*commit, out []error) error {
	if len(cs) == 0 {
		return nil
	}
	nacks := make([]core.Nack, len(cs))
	for i, c := range cs {
		c.row.Outcome = outcomeDead
		value, err := encodeResult(c.row)
		if err != nil {
			return err
		}
		nacks[i] = core.Nack{
			Lease: c.held.lease, Kind: core.NackFailed, Code: core.Code(c.row.Code), Reason: c.row.Message, Retry: c.hint,
			OnDead: []core.Write{{Key: resultKey(c.held.job, c.held.index), Value: value}},
		}
	}
	answers, err := s.book.cfg.Queue.Nack(ctx, nacks)
	if err != nil {
		return err
	}
	var events []core.Event
	s.book.mu.Lock()
	for i, c := range cs {
		out[c.pos] = answers[i].Err
		delete(s.held, c.held.lease.Token)
		if answers[i].Err != nil {
			continue
		}
		c.job.counts.Leased--
		topic := core.TopicWorkRequeued
		if answers[i].Dead {
			topic = core.TopicWorkDead
			c.job.count(c.row, 1)
		}
		c.job.tell()
		events = append(events, itemEvent(topic, c.held, c.held.attempt, c.held.losses, c.row.Message, s.ref.ID))
	}
	s.book.mu.Unlock()
	s.book.report(ctx, events)
	return nil
}

// report records events of what has happened already. Where that fails the log has
// to do.
func (b *Book) report(ctx context.Context, events []core.Event) {
	if len(events) == 0 {
		return
	}
	if err := b.cfg.Record(ctx, nil, events...); err != nil {
		b.log.Warn("events of work could not be recorded", "events", len(events), "first", events[0].Topic, "error", err)
	}
}

func itemEvent(topic string, h heldItem, attempt, losses int, reason string, worker core.WorkerID) core.Event {
	level := core.LevelInfo
	if topic == core.TopicWorkDead {
		level = core.LevelWarn
	}
	attrs := core.Attrs{"job": h.job.String(), "item": uint64(h.lease.Item), "attempt": attempt, "losses": losses, "reason": reason}
	if h.id != "" { // of a lost lease only the item's number is known
		attrs["index"], attrs["id"] = h.index, h.id
	}
	return core.Event{Level: level, Kind: core.EventDomain, Topic: topic, WorkerID: worker.String(), Attrs: attrs}
}

// finishAll ends the jobs whose last item was among the commits. The results are
// stored: what fails here is the book's own to try again.
func (b *Book) finishAll(ctx context.Context, lists ...[]*commit) {
	seen := map[*job]bool{}
	for _, cs := range lists {
		for _, c := range cs {
			if seen[c.job] {
				continue
			}
			seen[c.job] = true
			b.soon(ctx, c.job, "end a finished job", b.finishIfDone)
		}
	}
}

// Return implements [core.WorkSession].
func (s *session) Return(ctx context.Context, leases []core.Lease, reason string) error {
	if len(leases) == 0 {
		return nil
	}
	nacks := make([]core.Nack, len(leases))
	for i, l := range leases {
		if l.Owner != s.ref.ID || l.Epoch != s.ref.Epoch {
			return core.Errorf("work: return", core.CodePermissionDenied, "lease %d of queue %q is not this worker's", l.Item, l.Queue)
		}
		nacks[i] = core.Nack{Lease: l, Kind: core.NackReturned, Reason: reason}
	}
	answers, err := s.book.cfg.Queue.Nack(ctx, nacks)
	if err != nil {
		return core.WithOp("work: return", err)
	}
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	for i, a := range answers {
		h, ok := s.held[leases[i].Token]
		delete(s.held, leases[i].Token)
		if j := s.book.active[h.job]; ok && a.Err == nil && j != nil {
			j.counts.Leased--
			j.tell()
		}
	}
	return nil
}
