package coretest

import (
	"context"
	"fmt"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func checkExpiry(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a"); err != nil {
		return err
	}
	old, err := f.Queue.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: owner(1), Epoch: 1, MaxItems: 1, LeaseFor: 20 * time.Millisecond})
	if err := wantTexts(old, err, "a"); err != nil {
		return err
	}
	again, err := f.Queue.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: owner(2), Epoch: 1, MaxItems: 1, Wait: 30 * time.Second})
	if err := wantTexts(again, err, "a"); err != nil {
		return err
	}
	if again[0].Losses != 1 || again[0].Attempt != 1 {
		return fmt.Errorf("losses %d and attempt %d, want 1 and 1", again[0].Losses, again[0].Attempt)
	}
	return wantCode(core.AckOne(ctx, f.Queue, old[0].Lease), core.CodeLeaseLost, "an ack after the lease ran out")
}

func checkExtend(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a", "b"); err != nil {
		return err
	}
	// The extended lease would run out long before the one beside it is seen to.
	held, err := f.Queue.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: owner(1), Epoch: 1, MaxItems: 1, LeaseFor: time.Minute})
	if err := wantTexts(held, err, "a"); err != nil {
		return err
	}
	errs, err := f.Queue.Extend(ctx, []core.Lease{held[0].Lease}, time.Hour)
	if err := first(err, errs[0]); err != nil {
		return err
	}
	peek, err := f.Queue.Peek(ctx, "q", 0, 1)
	if err != nil {
		return err
	}
	if left := time.Until(peek[0].Deadline); peek[0].State != "leased" || left < 50*time.Minute {
		return fmt.Errorf("the item is %s with %v left", peek[0].State, left)
	}
	return core.AckOne(ctx, f.Queue, held[0].Lease)
}

func checkRelease(ctx context.Context, f *QueueFixture) error {
	for _, q := range []string{"q", "q2"} {
		if _, err := enqueueText(ctx, f.Queue, q, "a", "b"); err != nil {
			return err
		}
		if _, err := poll(ctx, f.Queue, q, 2); err != nil {
			return err
		}
	}
	newer, err := f.Queue.Enqueue(ctx, "q", []core.NewItem{{Payload: []byte("c")}})
	if err != nil {
		return err
	}
	kept, err := f.Queue.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: owner(1), Epoch: 2, MaxItems: 1})
	if err := wantTexts(kept, err, "c"); err != nil {
		return err
	}
	out, err := f.Queue.ReleaseOwner(ctx, owner(1), 1, true, "worker failed")
	if err != nil {
		return err
	}
	if len(out) != 4 {
		return fmt.Errorf("%d leases released, want 4: %+v", len(out), out)
	}
	for _, r := range out {
		if r.Losses != 1 || r.Dead || r.Lease.Epoch != 1 || r.Lease.Item == newer[0].ID {
			return fmt.Errorf("released %+v", r)
		}
	}
	back, err := f.Queue.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: owner(2), Epoch: 1, MaxItems: 5})
	if err := wantTexts(back, err, "a b"); err != nil {
		return err
	}
	if back[0].Losses != 1 || back[0].Attempt != 1 {
		return fmt.Errorf("losses %d and attempt %d, want 1 and 1", back[0].Losses, back[0].Attempt)
	}
	return core.AckOne(ctx, f.Queue, kept[0].Lease)
}

func checkReleasedEpoch(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a", "b"); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 1)
	if err != nil {
		return err
	}
	if _, err := f.Queue.ReleaseOwner(ctx, owner(1), 1, false, "drained"); err != nil {
		return err
	}
	_, derr := poll(ctx, f.Queue, "q", 1)
	return first(
		wantCode(core.AckOne(ctx, f.Queue, got[0].Lease), core.CodeLeaseLost, "an ack of a released epoch"),
		wantCode(derr, core.CodeFenced, "a dequeue of a released epoch"),
	)
}

func checkLosses(ctx context.Context, f *QueueFixture) error {
	if _, err := core.EnqueueOne(ctx, f.Queue, "q", core.NewItem{Payload: []byte("a"), MaxLosses: 2}); err != nil {
		return err
	}
	for epoch := uint64(1); epoch <= 2; epoch++ {
		got, err := f.Queue.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: owner(1), Epoch: epoch, MaxItems: 1})
		if err := wantTexts(got, err, "a"); err != nil {
			return err
		}
		out, err := f.Queue.ReleaseOwner(ctx, owner(1), epoch, true, "killed")
		if err != nil {
			return err
		}
		if len(out) != 1 || out[0].Dead != (epoch == 2) {
			return fmt.Errorf("loss %d of 2: %+v", epoch, out)
		}
	}
	dead, err := f.Queue.Dead(ctx, "q", 0, 10)
	if err != nil || len(dead) != 1 || dead[0].Losses != 2 || len(dead[0].History) != 2 || !dead[0].History[1].Loss || dead[0].History[1].Reason != "killed" {
		return fmt.Errorf("dead items %+v, %v", dead, err)
	}
	return nil
}

func checkDead(ctx context.Context, f *QueueFixture) error {
	items := make([]core.NewItem, 4)
	for i := range items {
		items[i] = core.NewItem{Payload: []byte{byte('a' + i)}, MaxAttempts: 1, IdempotencyKey: fmt.Sprint("k", i)}
	}
	if _, err := f.Queue.Enqueue(ctx, "q", items); err != nil {
		return err
	}
	for i := range items {
		if _, err := failOnce(ctx, f, 1); err != nil {
			return fmt.Errorf("item %d: %w", i, err)
		}
	}
	dead, err := f.Queue.Dead(ctx, "q", 0, 10)
	if err != nil || len(dead) != 4 {
		return fmt.Errorf("%d dead, want 4, %v", len(dead), err)
	}
	h := dead[0].History
	if string(dead[0].Payload) != "a" || dead[0].State != "dead" || len(h) != 1 || h[0].Code != core.CodeTransient || h[0].Reason != "try 1" || h[0].Owner != owner(1) {
		return fmt.Errorf("the first dead item is %+v", dead[0])
	}
	page, err := f.Queue.Dead(ctx, "q", dead[1].ID, 1)
	if err != nil || len(page) != 1 || page[0].ID != dead[2].ID {
		return fmt.Errorf("behind item %d comes %+v, %v", dead[1].ID, page, err)
	}
	if n, err := f.Queue.RequeueDead(ctx, "q", dead[1].ID, 999_999); err != nil || n != 1 {
		return fmt.Errorf("requeued %d, %v, want 1", n, err)
	}
	got, err := take(ctx, f.Queue, "q", 5)
	if err := wantTexts(got, err, "b"); err != nil {
		return err
	}
	if got[0].Attempt != 1 {
		return fmt.Errorf("a requeued item has attempt %d, want fresh counters", got[0].Attempt)
	}
	if n, err := f.Queue.DropDead(ctx, "q", dead[0].ID); err != nil || n != 1 {
		return fmt.Errorf("dropped %d, %v, want 1", n, err)
	}
	if n, err := f.Queue.RequeueDead(ctx, "q"); err != nil || n != 2 {
		return fmt.Errorf("requeued all %d, %v, want 2", n, err)
	}
	rest, err := take(ctx, f.Queue, "q", 5)
	return wantTexts(rest, err, "c d")
}

func checkPurge(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a", "b", "c"); err != nil {
		return err
	}
	if _, err := core.EnqueueOne(ctx, f.Queue, "q", core.NewItem{NotBefore: time.Now().Add(time.Hour)}); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 1)
	if err != nil {
		return err
	}
	if n, err := f.Queue.Purge(ctx, "q"); err != nil || n != 4 {
		return fmt.Errorf("purged %d, %v, want 4", n, err)
	}
	if err := wantCode(core.AckOne(ctx, f.Queue, got[0].Lease), core.CodeLeaseLost, "an ack after a purge"); err != nil {
		return err
	}
	if n, err := f.Queue.Purge(ctx, "unknown"); err != nil || n != 0 {
		return fmt.Errorf("an unknown queue: purged %d, %v", n, err)
	}
	next, err := enqueueText(ctx, f.Queue, "q", "d")
	if err != nil {
		return err
	}
	if next[0].ID <= got[0].Lease.Item {
		return fmt.Errorf("number %d is used again", next[0].ID)
	}
	after, err := poll(ctx, f.Queue, "q", 5)
	return wantTexts(after, err, "d")
}

func checkPeek(ctx context.Context, f *QueueFixture) error {
	_, err := f.Queue.Enqueue(ctx, "q", []core.NewItem{
		{Payload: []byte("a")}, {Payload: []byte("b"), Priority: 5}, {Payload: []byte("c"), NotBefore: time.Now().Add(time.Hour)},
	})
	if err != nil {
		return err
	}
	if _, err := poll(ctx, f.Queue, "q", 1); err != nil {
		return err
	}
	es, err := f.Queue.Peek(ctx, "q", 0, 10)
	if err != nil {
		return err
	}
	var got string
	for _, e := range es {
		got += string(e.Payload) + ":" + e.State + " "
	}
	if got != "a:ready b:leased c:delayed " {
		return fmt.Errorf("peek shows %q", got)
	}
	if es[1].Owner != owner(1) || es[1].Epoch != 1 {
		return fmt.Errorf("the leased item names owner %s epoch %d", es[1].Owner, es[1].Epoch)
	}
	page, err := f.Queue.Peek(ctx, "q", es[0].ID, 1)
	if err != nil || len(page) != 1 || page[0].ID != es[1].ID {
		return fmt.Errorf("behind item %d comes %+v, %v", es[0].ID, page, err)
	}
	return nil
}

func checkStats(ctx context.Context, f *QueueFixture) error {
	_, err := f.Queue.Enqueue(ctx, "q", []core.NewItem{
		{Payload: []byte("a")}, {Payload: []byte("b")}, {Payload: []byte("c"), MaxAttempts: 1}, {Payload: []byte("d")},
		{Payload: []byte("e"), NotBefore: time.Now().Add(time.Hour)},
	})
	if err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 3)
	if err != nil {
		return err
	}
	if _, err := core.NackOne(ctx, f.Queue, core.Nack{Lease: got[2].Lease, Kind: core.NackFailed}); err != nil {
		return err
	}
	if err := core.AckOne(ctx, f.Queue, got[0].Lease); err != nil {
		return err
	}
	st, err := f.Queue.Stats(ctx, "q")
	if err != nil {
		return err
	}
	st.Oldest = 0
	want := core.QueueStats{Queue: "q", Ready: 1, Delayed: 1, Leased: 1, Dead: 1, Enqueued: 5, Acked: 1}
	if st != want {
		return fmt.Errorf("stats %+v, want %+v", st, want)
	}
	none, err := f.Queue.Stats(ctx, "unknown")
	if err != nil || none != (core.QueueStats{Queue: "unknown"}) {
		return fmt.Errorf("an unknown queue has %+v, %v", none, err)
	}
	names, err := f.Queue.Queues(ctx)
	if err != nil || len(names) != 1 || names[0] != "q" {
		return fmt.Errorf("queues %v, %v, want q alone", names, err)
	}
	return nil
}

func checkManyQueues(ctx context.Context, f *QueueFixture) error {
	opts := core.DequeueOptions{Queues: []string{"first", "second"}, Owner: owner(1), Epoch: 1, MaxItems: 5, Wait: 30 * time.Second}
	for _, q := range []string{"second", "first"} {
		if _, err := enqueueText(ctx, f.Queue, q, "from "+q); err != nil {
			return err
		}
	}
	for _, want := range []string{"from first", "from second"} {
		got, err := f.Queue.Dequeue(ctx, opts)
		if err := wantTexts(got, err, want); err != nil {
			return err
		}
	}
	type answer struct {
		items []core.LeasedItem
		err   error
	}
	ch := make(chan answer, 1)
	go func() {
		items, err := f.Queue.Dequeue(ctx, opts)
		ch <- answer{items, err}
	}()
	if err := stillWaits(ch); err != nil {
		return err
	}
	if _, err := enqueueText(ctx, f.Queue, "second", "late"); err != nil {
		return err
	}
	got := <-ch
	return wantTexts(got.items, got.err, "late")
}

func checkHeld(ctx context.Context, f *QueueFixture) error {
	if _, err := enqueueText(ctx, f.Queue, "q", "a", "b", "c"); err != nil {
		return err
	}
	got, err := poll(ctx, f.Queue, "q", 2)
	if err != nil {
		return err
	}
	if err := first(core.AckOne(ctx, f.Queue, got[0].Lease), f.Reopen()); err != nil {
		return err
	}
	held, err := f.Queue.Held(ctx, owner(1), 1)
	if err := wantTexts(held, err, "b"); err != nil {
		return err
	}
	if held[0].Lease != got[1].Lease {
		return fmt.Errorf("held lease %+v, want %+v", held[0].Lease, got[1].Lease)
	}
	none, err := f.Queue.Held(ctx, owner(1), 2)
	return wantTexts(none, err, "")
}
