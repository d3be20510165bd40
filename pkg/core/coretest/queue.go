package coretest

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// QueueFixture is one fresh, empty queue under test.
type QueueFixture struct {
	Queue   core.Queue
	Storage core.Storage // what an ack's writes go to
	// Reopen closes the queue without its storage and opens it again, as a
	// restart does. It replaces Queue.
	Reopen func() error
}

// QueueOptions declares what an implementation does not offer.
type QueueOptions struct {
	NoReopen bool // the queue does not outlive its process
}

// QueueCheck is one sentence of the contract of [core.Queue] and the check that
// holds an implementation to it. The check returns what it saw.
type QueueCheck struct {
	Rule   string
	Check  func(ctx context.Context, f *QueueFixture) error
	reopen bool
}

// RunQueue runs every check against a fresh fixture of its own. open registers
// whatever clean-up it needs with t.
func RunQueue(t *testing.T, open func(t *testing.T) *QueueFixture, opts QueueOptions) {
	t.Helper()
	for _, c := range QueueChecks() {
		if c.reopen && opts.NoReopen {
			continue
		}
		t.Run(subtestName(c.Rule), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := c.Check(ctx, open(t)); err != nil {
				t.Errorf("rule broken: %s\n%v", c.Rule, err)
			}
		})
	}
}

// QueueChecks returns the checks, for callers that run them one by one.
func QueueChecks() []QueueCheck {
	return []QueueCheck{
		{Rule: "items come in enqueue order", Check: checkFIFO},
		{Rule: "higher priority comes first, then enqueue order", Check: checkPriority},
		{Rule: "the order survives a restart", Check: checkOrderReopen, reopen: true},
		{Rule: "a leased item is not delivered again", Check: checkLeaseExclusive},
		{Rule: "a finished item is gone, also after a restart", Check: checkAckGone, reopen: true},
		{Rule: "a restart replays exactly what was not finished and keeps leases", Check: checkReplay, reopen: true},
		{Rule: "an ack stores its writes with it", Check: checkAckWrites},
		{Rule: "a call on a lost lease is lease_lost and changes nothing", Check: checkLostLease},
		{Rule: "two grants of one item are two leases", Check: checkTokens},
		{Rule: "a failed item is tried again until its attempts are used up, then dead", Check: checkAttempts},
		{Rule: "a hint of never makes an item dead at once and stores what was asked for", Check: checkNever},
		{Rule: "a failed item waits out its delay", Check: checkRetryDelay},
		{Rule: "a returned item is ready at once and nothing is counted", Check: checkReturned},
		{Rule: "an item with a time is not delivered before it", Check: checkNotBefore},
		{Rule: "an idempotency key admits one item, also after it is finished", Check: checkIdempotency},
		{Rule: "the budget of items and bytes is kept, and a large item still comes", Check: checkBudget},
		{Rule: "dequeue waits for a first item", Check: checkWait},
		{Rule: "dequeue takes from the first queue that has items, and waits on all", Check: checkManyQueues},
		{Rule: "held shows what an owner's epoch holds", Check: checkHeld, reopen: true},
		{Rule: "dequeue without wait answers at once with nothing", Check: checkNoWait},
		{Rule: "a cancelled wait ends with the context's code and takes nothing", Check: checkCancelWait},
		{Rule: "a lease that runs out returns its item as a loss", Check: checkExpiry},
		{Rule: "an extended lease holds", Check: checkExtend},
		{Rule: "releasing an owner returns all its leases in all queues and counts one loss", Check: checkRelease},
		{Rule: "a released epoch can neither finish nor lease", Check: checkReleasedEpoch},
		{Rule: "an item whose losses are used up is dead", Check: checkLosses},
		{Rule: "dead items carry their history, can be requeued and dropped", Check: checkDead},
		{Rule: "purge removes everything and loses leases", Check: checkPurge},
		{Rule: "peek shows items in enqueue order and leases nothing", Check: checkPeek},
		{Rule: "stats and queues count what is there", Check: checkStats},
		{Rule: "many producers and consumers finish every item once", Check: checkConcurrent},
		{Rule: "bad arguments are refused", Check: checkBadArguments},
		{Rule: "close ends waiting calls", Check: checkClose},
	}
}

func subtestName(rule string) string {
	return string(bytes.ReplaceAll([]byte(rule), []byte(" "), []byte("_")))
}

// owner returns a fixed worker id for small numbers.
func owner(n byte) core.WorkerID { return core.WorkerID{15: n} }

func enqueueText(ctx context.Context, q core.Queue, queue string, payloads ...string) ([]core.Enqueued, error) {
	items := make([]core.NewItem, len(payloads))
	for i, p := range payloads {
		items[i] = core.NewItem{Payload: []byte(p)}
	}
	return q.Enqueue(ctx, queue, items)
}

// take leases up to n items for owner 1, epoch 1, waiting for the first.
func take(ctx context.Context, q core.Queue, queue string, n int) ([]core.LeasedItem, error) {
	return q.Dequeue(ctx, core.DequeueOptions{Queues: []string{queue}, Owner: owner(1), Epoch: 1, MaxItems: n, Wait: 30 * time.Second})
}

// poll leases up to n items for owner 1, epoch 1, without waiting.
func poll(ctx context.Context, q core.Queue, queue string, n int) ([]core.LeasedItem, error) {
	return q.Dequeue(ctx, core.DequeueOptions{Queues: []string{queue}, Owner: owner(1), Epoch: 1, MaxItems: n})
}

func texts(items []core.LeasedItem) string {
	var b bytes.Buffer
	for i, it := range items {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.Write(it.Payload)
	}
	return b.String()
}

func wantTexts(items []core.LeasedItem, err error, want string) error {
	if err != nil {
		return err
	}
	if got := texts(items); got != want {
		return fmt.Errorf("delivered %q, want %q", got, want)
	}
	return nil
}

func wantCode(err error, code core.Code, what string) error {
	if !core.IsCode(err, code) {
		return fmt.Errorf("%s: got %v (%s), want code %s", what, err, core.CodeOf(err), code)
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func checkFIFO(ctx context.Context, f *QueueFixture) error {
	for _, batch := range [][]string{{"a", "b"}, {"c"}, {"d", "e"}} {
		if _, err := enqueueText(ctx, f.Queue, "q", batch...); err != nil {
			return err
		}
	}
	head, err := poll(ctx, f.Queue, "q", 2)
	if err := wantTexts(head, err, "a b"); err != nil {
		return err
	}
	rest, err := poll(ctx, f.Queue, "q", 10)
	return wantTexts(rest, err, "c d e")
}

func enqueueMixed(ctx context.Context, f *QueueFixture) error {
	_, err := f.Queue.Enqueue(ctx, "q", []core.NewItem{
		{Payload: []byte("low1"), Priority: -5}, {Payload: []byte("mid1")}, {Payload: []byte("high1"), Priority: 7},
		{Payload: []byte("mid2")}, {Payload: []byte("high2"), Priority: 7}, {Payload: []byte("low2"), Priority: -5},
	})
	return err
}

const mixedOrder = "high1 high2 mid1 mid2 low1 low2"

func checkPriority(ctx context.Context, f *QueueFixture) error {
	if err := enqueueMixed(ctx, f); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 10)
	return wantTexts(got, err, mixedOrder)
}

func checkOrderReopen(ctx context.Context, f *QueueFixture) error {
	if err := first(enqueueMixed(ctx, f), f.Reopen()); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 10)
	return wantTexts(got, err, mixedOrder)
}

func checkLeaseExclusive(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a"); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 1)
	if err := wantTexts(got, err, "a"); err != nil {
		return err
	}
	again, err := f.Queue.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: owner(2), Epoch: 1, MaxItems: 1})
	return wantTexts(again, err, "")
}

func checkAckGone(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a"); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 1)
	if err := wantTexts(got, err, "a"); err != nil {
		return err
	}
	if err := core.AckOne(ctx, f.Queue, got[0].Lease); err != nil {
		return err
	}
	if err := wantCode(core.AckOne(ctx, f.Queue, got[0].Lease), core.CodeLeaseLost, "a second ack"); err != nil {
		return err
	}
	if err := f.Reopen(); err != nil {
		return err
	}
	after, err := poll(ctx, f.Queue, "q", 1)
	return wantTexts(after, err, "")
}

func checkReplay(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a", "b", "c", "d"); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 3)
	if err := wantTexts(got, err, "a b c"); err != nil {
		return err
	}
	if err := first(core.AckOne(ctx, f.Queue, got[0].Lease), f.Reopen()); err != nil {
		return err
	}
	rest, err := poll(ctx, f.Queue, "q", 10)
	if err := wantTexts(rest, err, "d"); err != nil {
		return fmt.Errorf("leased items must stay with their owner: %w", err)
	}
	if err := core.AckOne(ctx, f.Queue, got[1].Lease); err != nil {
		return fmt.Errorf("a lease must outlive the restart: %w", err)
	}
	if _, err := f.Queue.ReleaseOwner(ctx, owner(1), 1, true, "died"); err != nil {
		return err
	}
	back, err := f.Queue.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: owner(2), Epoch: 1, MaxItems: 10})
	return wantTexts(back, err, "c d")
}

func checkAckWrites(ctx context.Context, f *QueueFixture) error {
	put, gone := core.NewKey("results", "r"), core.NewKey("results", "old")
	if _, err := core.PutBytes(ctx, f.Storage, gone, []byte("x")); err != nil {
		return err
	}
	if _, err := enqueueText(ctx, f.Queue, "q", "a"); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 1)
	if err != nil {
		return err
	}
	if err := core.AckOne(ctx, f.Queue, got[0].Lease, core.Write{Key: put, Value: []byte("v")}, core.Write{Key: gone, Delete: true}); err != nil {
		return err
	}
	stale := core.AckOne(ctx, f.Queue, got[0].Lease, core.Write{Key: put, Value: []byte("stale")})
	if err := wantCode(stale, core.CodeLeaseLost, "a stale ack"); err != nil {
		return err
	}
	es, err := f.Storage.GetMany(ctx, put, gone)
	if err != nil {
		return err
	}
	if string(es[0].Value) != "v" || es[1].Exists() {
		return fmt.Errorf("stored %q and old row exists: %v", es[0].Value, es[1].Exists())
	}
	return nil
}

func checkLostLease(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a"); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 1)
	if err != nil {
		return err
	}
	for _, edit := range []func(*core.Lease){
		func(l *core.Lease) { l.Token++ }, func(l *core.Lease) { l.Owner = owner(9) },
		func(l *core.Lease) { l.Epoch++ }, func(l *core.Lease) { l.Item += 5 }, func(l *core.Lease) { l.Queue = "other" },
	} {
		l := got[0].Lease
		edit(&l)
		errs, err := f.Queue.Extend(ctx, []core.Lease{l}, time.Hour)
		if err != nil {
			return err
		}
		_, nerr := core.NackOne(ctx, f.Queue, core.Nack{Lease: l, Kind: core.NackFailed})
		if err := first(
			wantCode(core.AckOne(ctx, f.Queue, l), core.CodeLeaseLost, "ack"),
			wantCode(nerr, core.CodeLeaseLost, "nack"), wantCode(errs[0], core.CodeLeaseLost, "extend"),
		); err != nil {
			return fmt.Errorf("lease %+v: %w", l, err)
		}
	}
	return core.AckOne(ctx, f.Queue, got[0].Lease)
}

func checkTokens(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a"); err != nil {
		return err
	}
	old, err := poll(ctx, f.Queue, "q", 1)
	if err != nil {
		return err
	}
	if _, err := core.NackOne(ctx, f.Queue, core.Nack{Lease: old[0].Lease, Kind: core.NackReturned}); err != nil {
		return err
	}
	again, err := take(ctx, f.Queue, "q", 1)
	if err := wantTexts(again, err, "a"); err != nil {
		return err
	}
	if err := wantCode(core.AckOne(ctx, f.Queue, old[0].Lease), core.CodeLeaseLost, "an ack with the earlier lease"); err != nil {
		return err
	}
	return core.AckOne(ctx, f.Queue, again[0].Lease)
}

func checkConcurrent(ctx context.Context, f *QueueFixture) error {
	const producers, consumers, each = 8, 8, 100
	var wg sync.WaitGroup
	errs := make(chan error, producers+consumers)
	for p := range producers {
		wg.Go(func() {
			for i := range each {
				if _, err := enqueueText(ctx, f.Queue, "q", fmt.Sprintf("%d-%d", p, i)); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	var mu sync.Mutex
	seen := map[string]int{}
	total := 0
	for c := range consumers {
		wg.Go(func() {
			for {
				mu.Lock()
				done := total >= producers*each
				mu.Unlock()
				if done {
					return
				}
				items, err := f.Queue.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: owner(byte(c + 1)), Epoch: 1, MaxItems: 7, Wait: 20 * time.Millisecond})
				if err != nil {
					errs <- err
					return
				}
				for _, it := range items {
					if err := core.AckOne(ctx, f.Queue, it.Lease); err != nil {
						errs <- err
						return
					}
					mu.Lock()
					seen[string(it.Payload)]++
					total++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		return err
	}
	if len(seen) != producers*each || total != producers*each {
		return fmt.Errorf("%d items finished %d times, want %d once each", len(seen), total, producers*each)
	}
	return nil
}
