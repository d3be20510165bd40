package coretest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

var retryNow = core.RetryHint{Kind: core.RetryNow}

// failOnce takes the next item and fails it with a hint that allows a retry.
func failOnce(ctx context.Context, f *QueueFixture, wantAttempt int) (core.Nacked, error) {
	got, err := take(ctx, f.Queue, "q", 1)
	if err != nil {
		return core.Nacked{}, err
	}
	if len(got) != 1 || got[0].Attempt != wantAttempt {
		return core.Nacked{}, fmt.Errorf("got %d items, want one with attempt %d: %+v", len(got), wantAttempt, got)
	}
	return core.NackOne(ctx, f.Queue, core.Nack{Lease: got[0].Lease, Kind: core.NackFailed, Code: core.CodeTransient, Reason: fmt.Sprint("try ", wantAttempt), Retry: retryNow})
}

func checkAttempts(ctx context.Context, f *QueueFixture) error {
	if _, err := core.EnqueueOne(ctx, f.Queue, "q", core.NewItem{Payload: []byte("a"), MaxAttempts: 3}); err != nil {
		return err
	}
	for attempt := 1; attempt <= 3; attempt++ {
		out, err := failOnce(ctx, f, attempt)
		if err != nil {
			return err
		}
		if out.Dead != (attempt == 3) {
			return fmt.Errorf("after attempt %d of 3: dead is %v", attempt, out.Dead)
		}
	}
	left, err := poll(ctx, f.Queue, "q", 1)
	return wantTexts(left, err, "")
}

func checkNever(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a"); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 1)
	if err != nil {
		return err
	}
	row := core.NewKey("results", "dead")
	out, err := core.NackOne(ctx, f.Queue, core.Nack{
		Lease: got[0].Lease, Kind: core.NackFailed, Code: core.CodeTooLarge, Reason: "no use",
		OnDead: []core.Write{{Key: row, Value: []byte("dead")}},
	})
	if err != nil {
		return err
	}
	if !out.Dead {
		return errors.New("the item is not dead")
	}
	e, err := core.Get(ctx, f.Storage, row)
	if err != nil || string(e.Value) != "dead" {
		return fmt.Errorf("OnDead stored %q, %v", e.Value, err)
	}
	return nil
}

func checkRetryDelay(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a"); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 1)
	if err != nil {
		return err
	}
	hint := core.RetryHint{Kind: core.RetryAfter, After: time.Hour}
	out, err := core.NackOne(ctx, f.Queue, core.Nack{Lease: got[0].Lease, Kind: core.NackFailed, Retry: hint})
	if err != nil {
		return err
	}
	if wait := time.Until(out.NotBefore); wait < 50*time.Minute || wait > time.Hour {
		return fmt.Errorf("delivered again in %v, want about an hour", wait)
	}
	left, err := poll(ctx, f.Queue, "q", 1)
	return wantTexts(left, err, "")
}

func checkReturned(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a", "b"); err != nil {
		return err
	}
	for range 10 {
		got, err := poll(ctx, f.Queue, "q", 1)
		if err := wantTexts(got, err, "a"); err != nil {
			return err
		}
		if got[0].Attempt != 1 || got[0].Losses != 0 {
			return fmt.Errorf("attempt %d, losses %d were counted", got[0].Attempt, got[0].Losses)
		}
		out, err := core.NackOne(ctx, f.Queue, core.Nack{Lease: got[0].Lease, Kind: core.NackReturned})
		if err != nil || out.Dead || !out.NotBefore.IsZero() {
			return fmt.Errorf("returned: %+v, %v", out, err)
		}
	}
	return nil
}

func checkNotBefore(ctx context.Context, f *QueueFixture) error {
	soon := time.Now().Add(50 * time.Millisecond)
	_, err := f.Queue.Enqueue(ctx, "q", []core.NewItem{
		{Payload: []byte("later"), NotBefore: time.Now().Add(time.Hour), Priority: 9}, {Payload: []byte("soon"), NotBefore: soon},
	})
	if err != nil {
		return err
	}
	got, err := take(ctx, f.Queue, "q", 5)
	if err := wantTexts(got, err, "soon"); err != nil {
		return err
	}
	// Stored times have a resolution of one millisecond.
	if now := time.Now(); now.Before(soon.Add(-time.Millisecond)) {
		return fmt.Errorf("delivered %v too early", soon.Sub(now))
	}
	left, err := poll(ctx, f.Queue, "q", 1)
	return wantTexts(left, err, "")
}

func checkIdempotency(ctx context.Context, f *QueueFixture) error {
	item := core.NewItem{Payload: []byte("a"), IdempotencyKey: "k"}
	one, err := core.EnqueueOne(ctx, f.Queue, "q", item)
	if err != nil {
		return err
	}
	both, err := f.Queue.Enqueue(ctx, "q", []core.NewItem{item, {Payload: []byte("b"), IdempotencyKey: "other"}, item})
	if err != nil {
		return err
	}
	if !both[0].Duplicate || both[0].ID != one.ID || both[1].Duplicate || !both[2].Duplicate || both[2].ID != one.ID {
		return fmt.Errorf("known key: first %+v, then %+v", one, both)
	}
	got, err := poll(ctx, f.Queue, "q", 10)
	if err := wantTexts(got, err, "a b"); err != nil {
		return err
	}
	if err := core.AckOne(ctx, f.Queue, got[0].Lease); err != nil {
		return err
	}
	again, err := core.EnqueueOne(ctx, f.Queue, "q", item)
	if err != nil || !again.Duplicate || again.ID != one.ID {
		return fmt.Errorf("a finished key: %+v, %v", again, err)
	}
	elsewhere, err := core.EnqueueOne(ctx, f.Queue, "q2", item)
	if err != nil || elsewhere.Duplicate {
		return fmt.Errorf("the same key in another queue: %+v, %v", elsewhere, err)
	}
	return nil
}

func checkBudget(ctx context.Context, f *QueueFixture) error {
	big := strings.Repeat("x", 1000)
	if _, err := enqueueText(ctx, f.Queue, "q", big, "aaaa", "bbbb", "cccc"); err != nil {
		return err
	}
	opts := core.DequeueOptions{Queues: []string{"q"}, Owner: owner(1), Epoch: 1, MaxItems: 10, MaxBytes: 9}
	got, err := f.Queue.Dequeue(ctx, opts)
	if err := wantTexts(got, err, big); err != nil {
		return err
	}
	got, err = f.Queue.Dequeue(ctx, opts)
	if err := wantTexts(got, err, "aaaa bbbb"); err != nil {
		return err
	}
	got, err = f.Queue.Dequeue(ctx, opts)
	return wantTexts(got, err, "cccc")
}

func checkWait(ctx context.Context, f *QueueFixture) error {
	type answer struct {
		items []core.LeasedItem
		err   error
	}
	ch := make(chan answer, 1)
	go func() {
		items, err := take(ctx, f.Queue, "q", 1)
		ch <- answer{items, err}
	}()
	if err := stillWaits(ch); err != nil {
		return err
	}
	if _, err := enqueueText(ctx, f.Queue, "q", "a"); err != nil {
		return err
	}
	got := <-ch
	return wantTexts(got.items, got.err, "a")
}

// stillWaits gives a call the time to begin to wait, and reports one that has
// returned instead. On a busy machine it may have done neither, which tells nothing.
func stillWaits[T any](answer <-chan T) error {
	timer := time.NewTimer(20 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-answer:
		return errors.New("the call did not wait")
	case <-timer.C:
		return nil
	}
}

func checkNoWait(ctx context.Context, f *QueueFixture) error {
	got, err := poll(ctx, f.Queue, "q", 1)
	if err != nil || got == nil || len(got) != 0 {
		return fmt.Errorf("an empty queue answered %v, %v, want an empty slice", got, err)
	}
	return nil
}

func checkCancelWait(ctx context.Context, f *QueueFixture) error {
	short, cancel := context.WithCancel(ctx)
	ch := make(chan error, 1)
	go func() {
		_, err := take(short, f.Queue, "q", 1)
		ch <- err
	}()
	if err := stillWaits(ch); err != nil {
		cancel()
		return err
	}
	cancel()
	if err := wantCode(<-ch, core.CodeCanceled, "a cancelled wait"); err != nil {
		return err
	}
	if _, err := enqueueText(ctx, f.Queue, "q", "a"); err != nil {
		return err
	}
	got, err := take(ctx, f.Queue, "q", 1)
	return wantTexts(got, err, "a")
}

func checkBadArguments(ctx context.Context, f *QueueFixture) error {
	q := f.Queue
	_, e1 := enqueueText(ctx, q, "", "a")
	_, e2 := enqueueText(ctx, q, "with space", "a")
	_, e3 := q.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: owner(1)})
	_, e4 := q.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, MaxItems: 1})
	_, e5 := core.EnqueueOne(ctx, q, "q", core.NewItem{IdempotencyKey: strings.Repeat("k", core.MaxIdempotencyKeyLen+1)})
	_, e6 := q.Extend(ctx, []core.Lease{{Queue: "q"}}, 0)
	_, e7 := core.EnqueueOne(ctx, q, "q", core.NewItem{Payload: make([]byte, core.MaxPayloadLen+1)})
	for i, err := range []error{e1, e2, e3, e4, e5, e6} {
		if err := wantCode(err, core.CodeInvalidArgument, fmt.Sprint("case ", i+1)); err != nil {
			return err
		}
	}
	return wantCode(e7, core.CodeTooLarge, "an oversized payload")
}

func checkClose(ctx context.Context, f *QueueFixture) error {
	ch := make(chan error, 1)
	go func() {
		_, err := take(ctx, f.Queue, "q", 1)
		ch <- err
	}()
	if err := stillWaits(ch); err != nil {
		return err
	}
	if err := first(f.Queue.Close(), f.Queue.Close()); err != nil {
		return err
	}
	_, late := enqueueText(ctx, f.Queue, "q", "a")
	return first(wantCode(<-ch, core.CodeClosed, "a waiting dequeue"), wantCode(late, core.CodeClosed, "an enqueue after close"))
}
