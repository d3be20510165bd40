package worker

import (
	"context"
	"errors"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// maxBatch is how many items one slot takes at once.
const maxBatch = 256

// submitRetry is how long results wait that the coordinator could not store.
const submitRetry = 50 * time.Millisecond

// execute is one slot: it takes items that wait and works on them.
func (b *workbench) execute() {
	for {
		batch := b.next()
		if batch == nil {
			return
		}
		b.finish(batch, b.run(batch))
	}
}

// next waits for items and takes a share of those that belong together: same job,
// plugin and method. It returns nil when the bench ends.
func (b *workbench) next() []*inHand {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		if b.ctx.Err() != nil {
			return nil
		}
		if len(b.waiting) > 0 {
			break
		}
		if b.closing {
			return nil
		}
		b.cond.Wait()
	}
	// An even share leaves work for the other slots.
	share := min(maxBatch, (len(b.waiting)+b.slots-1)/b.slots)
	first := b.waiting[0].item
	var batch, rest []*inHand
	for _, h := range b.waiting {
		it := h.item
		if len(batch) < share && it.Job == first.Job && it.Plugin == first.Plugin && it.Method == first.Method {
			batch = append(batch, h)
		} else {
			rest = append(rest, h)
		}
	}
	b.waiting = rest
	b.running += len(batch)
	b.cond.Broadcast()
	return batch
}

// run has the executor work on a batch under a context that ends when all of its
// items are lost.
func (b *workbench) run(batch []*inHand) []core.WorkResult {
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	b.mu.Lock()
	left := len(batch)
	for _, h := range batch {
		if h.gone {
			left--
			continue
		}
		// Called with mu held, by dropLocked.
		h.cancel = func() {
			if left--; left == 0 {
				cancel()
			}
		}
	}
	b.mu.Unlock()
	if left == 0 {
		return nil
	}
	items := make([]core.WorkItem, len(batch))
	results := make([]core.WorkResult, len(batch))
	var ready []core.WorkItem
	var at []int
	for i, h := range batch {
		items[i] = h.item
		results[i] = core.WorkResult{Lease: h.item.Lease}
		if err := b.fetch(ctx, &items[i]); err != nil {
			results[i].Err = err
			continue
		}
		ready, at = append(ready, items[i]), append(at, i)
	}
	if len(ready) == 0 {
		return results
	}
	if err := b.e.act(); err != nil {
		return nil
	}
	start := time.Now()
	got := b.e.w.cfg.Executor.Execute(ctx, ready)
	b.learn(time.Since(start) / time.Duration(len(ready)))
	for k, i := range at {
		if k < len(got) {
			results[i] = got[k]
			results[i].Lease = items[i].Lease
		} else {
			results[i].Err = core.Errorf("worker: execute", core.CodeInternal, "the executor answered %d of %d items", len(got), len(ready))
		}
		b.store(ctx, &results[i])
	}
	return results
}

// learn moves the mean time of an item a quarter of the way to what was seen now, and
// all of it when items have become slower, so that a slow plugin is never asked for
// more than it has slots.
func (b *workbench) learn(each time.Duration) {
	each = max(each, time.Microsecond)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.pace == 0 || each > b.pace {
		b.pace = each
		return
	}
	b.pace = (3*b.pace + each) / 4
}

// fetch loads a payload that did not travel with its item.
func (b *workbench) fetch(ctx context.Context, it *core.WorkItem) error {
	if it.Content.IsZero() {
		return nil
	}
	return b.untilThere(ctx, func() (err error) {
		it.Payload, err = b.link.Download(ctx, it.Content, core.MaxCallPayload)
		return err
	})
}

// untilThere does something again while the coordinator is away: that says nothing
// against the item, and must not count as one of its attempts.
func (b *workbench) untilThere(ctx context.Context, do func() error) error {
	for {
		err := do()
		if !core.IsCode(err, core.CodeUnavailable) || sleep(ctx, submitRetry) != nil {
			return err
		}
	}
}

// store uploads a result that is too large to travel with its lease.
func (b *workbench) store(ctx context.Context, r *core.WorkResult) {
	switch {
	case r.Err != nil || len(r.Result) <= core.MaxInlinePayload:
		return
	case len(r.Result) > core.MaxCallPayload:
		r.Err = core.Errorf("worker: execute", core.CodeTooLarge, "the result has %d bytes, at most %d are taken", len(r.Result), core.MaxCallPayload)
	default:
		r.Err = b.untilThere(ctx, func() (err error) {
			r.Content, err = b.link.Upload(ctx, r.Result)
			return err
		})
	}
	r.Result = nil
}

// finish hands results to the submitter, except of items that are lost.
func (b *workbench) finish(batch []*inHand, results []core.WorkResult) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.running -= len(batch)
	for i, h := range batch {
		h.cancel = nil
		if h.gone || i >= len(results) {
			continue
		}
		if b.ctx.Err() != nil && errors.Is(results[i].Err, context.Canceled) {
			continue // cut off, not failed: the item goes back as it is
		}
		b.results = append(b.results, results[i])
	}
	b.cond.Broadcast()
}

// submit hands in results as they come, all that wait at once, and keeps a few such
// batches under way so that one commit need not wait for the one before.
func (b *workbench) submit() {
	const underWay = 4
	free := make(chan struct{}, underWay)
	for {
		batch := b.nextResults()
		if batch == nil {
			break
		}
		free <- struct{}{}
		go func() {
			defer func() { <-free }()
			b.send(batch)
		}()
	}
	for range underWay {
		free <- struct{}{}
	}
}

func (b *workbench) nextResults() []core.WorkResult {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.ctx.Err() == nil && (len(b.results) == 0 || b.session == nil) {
		b.cond.Wait()
	}
	if b.ctx.Err() != nil {
		return nil
	}
	batch := b.results
	b.results = nil
	b.sending += len(batch)
	return batch
}

// send hands in one batch. When the stream breaks, the results wait for the next.
func (b *workbench) send(batch []core.WorkResult) {
	b.mu.Lock()
	s := b.session
	b.mu.Unlock()
	var errs []error
	err := b.e.act()
	if err == nil && s == nil {
		err = core.Errorf("worker: submit", core.CodeUnavailable, "no work stream is open")
	}
	if err == nil {
		errs, err = s.Submit(b.ctx, batch)
	}
	if err != nil && b.ctx.Err() == nil {
		b.e.log.Debug("results could not be handed in yet", "results", len(batch), "err", err)
		if core.RetryOf(err).Kind != core.RetryNever && !core.IsCode(err, core.CodeUnavailable) {
			// The coordinator took the batch and could not store it, such as on a
			// full disk: give it time. An end of the bench shows below.
			_ = sleep(b.ctx, submitRetry)
		}
	}
	var refused []core.Lease
	defer func() { b.giveBack(b.ctx, refused) }()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sending -= len(batch)
	for i, r := range batch {
		if err != nil {
			if h := b.hand[r.Lease.Token]; h != nil {
				b.results = append(b.results, r)
			}
			continue
		}
		if e := errs[i]; e != nil && !core.IsCode(e, core.CodeLeaseLost) {
			b.e.log.Warn("a result was refused", "item", r.Lease.Item, "queue", r.Lease.Queue, "err", e)
			if core.RetryOf(e).Kind != core.RetryNever {
				b.results = append(b.results, r)
				continue
			}
			// The item must not stay leased for ever: that its result is refused is
			// its result, and if that is refused too, somebody else may try.
			if r.Err == nil {
				b.results = append(b.results, core.WorkResult{Lease: r.Lease, Err: e})
				continue
			}
			refused = append(refused, r.Lease)
		}
		delete(b.hand, r.Lease.Token)
	}
	b.cond.Broadcast()
}

// drain takes nothing more, hands back what waits, and waits until what runs is
// handed in. When ctx ends before, what runs is cancelled and handed back.
func (b *workbench) drain(ctx context.Context) {
	b.mu.Lock()
	b.closing = true
	back := b.waiting
	b.waiting = nil
	leases := b.forgetLocked(back)
	b.cond.Broadcast()
	b.mu.Unlock()
	b.giveBack(ctx, leases)

	stop := context.AfterFunc(ctx, b.wake)
	defer stop()
	b.mu.Lock()
	for ctx.Err() == nil && b.ctx.Err() == nil && (b.running > 0 || b.sending > 0 || len(b.results) > 0) {
		b.cond.Wait()
	}
	var rest []*inHand
	for _, h := range b.hand {
		rest = append(rest, h)
	}
	leases = b.forgetLocked(rest)
	b.mu.Unlock()
	if len(leases) > 0 {
		b.e.log.Warn("items are handed back unfinished", "items", len(leases))
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveGrace)
		defer cancel()
		b.giveBack(last, leases)
	}
	b.cut()
}

// forgetLocked takes items out of the hand and returns their leases. mu is held.
func (b *workbench) forgetLocked(hs []*inHand) []core.Lease {
	leases := make([]core.Lease, 0, len(hs))
	for _, h := range hs {
		leases = append(leases, h.item.Lease)
		h.gone = true
		delete(b.hand, h.item.Lease.Token)
		if h.cancel != nil {
			h.cancel()
		}
	}
	return leases
}

// giveBack returns items untried. What the coordinator cannot be told, it finds out
// when the worker deregisters.
func (b *workbench) giveBack(ctx context.Context, leases []core.Lease) {
	b.mu.Lock()
	s := b.session
	b.mu.Unlock()
	if len(leases) == 0 || s == nil {
		return
	}
	if err := s.Return(ctx, leases, "the worker is leaving"); err != nil {
		b.e.log.Debug("items could not be handed back", "err", err)
	}
}
