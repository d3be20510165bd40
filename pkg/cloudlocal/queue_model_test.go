package cloudlocal_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// modelItem is an item as the model knows it.
type modelItem struct {
	id       core.ItemID
	prio     int32
	payload  string
	key      string
	state    string // "ready", "leased", "dead"
	attempts int
	losses   int
	lease    core.Lease
}

// model is a queue that does nothing but what the contract says, beside the real one.
type model struct {
	store *memstore.Store
	queue *cloudlocal.Queue
	items []*modelItem // in enqueue order; acknowledged ones are gone
	keys  map[string]core.ItemID
	stale []core.Lease // leases that must no longer hold
	epoch map[core.WorkerID]uint64
	n     int
}

const (
	modelAttempts = 3
	modelLosses   = 2
)

func (m *model) open(t *rapid.T) {
	q, err := cloudlocal.OpenQueue(context.Background(), cloudlocal.QueueConfig{
		Storage: m.store, Window: 16, MaxAttempts: modelAttempts, MaxLosses: modelLosses,
		// Failed items are ready at once: time is not what the model checks.
		RetryFloor: time.Nanosecond, RetryBase: time.Nanosecond, RetryMax: time.Nanosecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.queue = q
}

func modelOwner(t *rapid.T) core.WorkerID {
	return core.WorkerID{15: byte(rapid.IntRange(1, 3).Draw(t, "owner"))}
}

// next returns what must be delivered next, in order.
func (m *model) next() []*modelItem {
	var ready []*modelItem
	for _, it := range m.items {
		if it.state == "ready" {
			ready = append(ready, it)
		}
	}
	slices.SortStableFunc(ready, func(a, b *modelItem) int { return int(b.prio) - int(a.prio) })
	return ready
}

func (m *model) leased() []*modelItem {
	var out []*modelItem
	for _, it := range m.items {
		if it.state == "leased" {
			out = append(out, it)
		}
	}
	return out
}

func (m *model) remove(it *modelItem) {
	m.items = slices.DeleteFunc(m.items, func(o *modelItem) bool { return o == it })
}

func (m *model) Enqueue(t *rapid.T) {
	n := rapid.IntRange(1, 40).Draw(t, "n")
	items := make([]core.NewItem, n)
	for i := range items {
		m.n++
		items[i] = core.NewItem{Payload: fmt.Appendf(nil, "p%d", m.n), Priority: int32(rapid.IntRange(-1, 1).Draw(t, "prio"))}
		if rapid.IntRange(0, 4).Draw(t, "keyed") == 0 {
			items[i].IdempotencyKey = fmt.Sprint("k", rapid.IntRange(0, 20).Draw(t, "key"))
		}
	}
	out, err := m.queue.Enqueue(context.Background(), "q", items)
	if err != nil {
		t.Fatal(err)
	}
	for i, it := range items {
		known, dup := m.keys[it.IdempotencyKey]
		if it.IdempotencyKey == "" {
			dup = false
		}
		if out[i].Duplicate != dup || dup && out[i].ID != known {
			t.Fatalf("item %d with key %q: %+v, known as %d", i, it.IdempotencyKey, out[i], known)
		}
		if dup {
			continue
		}
		if it.IdempotencyKey != "" {
			m.keys[it.IdempotencyKey] = out[i].ID
		}
		m.items = append(m.items, &modelItem{id: out[i].ID, prio: it.Priority, payload: string(it.Payload), key: it.IdempotencyKey, state: "ready"})
	}
}

func (m *model) Dequeue(t *rapid.T) {
	w := modelOwner(t)
	n := rapid.IntRange(1, 12).Draw(t, "n")
	got, err := m.queue.Dequeue(context.Background(), core.DequeueOptions{Queues: []string{"q"}, Owner: w, Epoch: m.epoch[w] + 1, MaxItems: n})
	if err != nil {
		t.Fatal(err)
	}
	want := m.next()
	// A dequeue may stop where memory ends, so it may return fewer, but never others
	// and never none while something is ready.
	if len(got) > min(n, len(want)) || len(got) == 0 && len(want) > 0 {
		t.Fatalf("%d delivered, %d asked for, %d ready", len(got), n, len(want))
	}
	for i, it := range got {
		w := want[i]
		if it.Lease.Item != w.id || string(it.Payload) != w.payload || it.Attempt != w.attempts+1 || it.Losses != w.losses {
			t.Fatalf("delivered item %d %q attempt %d losses %d, want item %d %q with %d and %d", it.Lease.Item, it.Payload, it.Attempt, it.Losses, w.id, w.payload, w.attempts+1, w.losses)
		}
		w.state, w.lease = "leased", it.Lease
	}
}

// some draws leased items.
func (m *model) some(t *rapid.T) []*modelItem {
	all := m.leased()
	if len(all) == 0 {
		t.Skip("nothing is leased")
	}
	out := rapid.SliceOfNDistinct(rapid.SampledFrom(all), 1, min(5, len(all)), func(it *modelItem) core.ItemID { return it.id }).Draw(t, "items")
	return out
}

func (m *model) Ack(t *rapid.T) {
	for _, it := range m.some(t) {
		if err := core.AckOne(context.Background(), m.queue, it.lease); err != nil {
			t.Fatalf("ack of item %d: %v", it.id, err)
		}
		m.stale = append(m.stale, it.lease)
		m.remove(it)
	}
}

func (m *model) Nack(t *rapid.T) {
	for _, it := range m.some(t) {
		n := core.Nack{Lease: it.lease, Kind: core.NackReturned}
		failed := rapid.Bool().Draw(t, "failed")
		if failed {
			n.Kind, n.Retry = core.NackFailed, core.RetryHint{Kind: core.RetryBackoff, Base: time.Nanosecond, Max: time.Nanosecond}
			it.attempts++
		}
		out, err := core.NackOne(context.Background(), m.queue, n)
		if err != nil {
			t.Fatal(err)
		}
		m.stale = append(m.stale, it.lease)
		it.state, it.lease = "ready", core.Lease{}
		if it.attempts >= modelAttempts && failed {
			it.state = "dead"
		}
		if out.Dead != (it.state == "dead") {
			t.Fatalf("item %d after %d attempts: dead %v", it.id, it.attempts, out.Dead)
		}
	}
	m.settle(t)
}

// settle waits until delays of a nanosecond are over.
func (m *model) settle(t *rapid.T) {
	for {
		st, err := m.queue.Stats(context.Background(), "q")
		if err != nil {
			t.Fatal(err)
		}
		if st.Delayed == 0 {
			return
		}
	}
}

func (m *model) ReleaseOwner(t *rapid.T) {
	w := modelOwner(t)
	loss := rapid.Bool().Draw(t, "loss")
	m.epoch[w]++
	out, err := m.queue.ReleaseOwner(context.Background(), w, m.epoch[w], loss, "gone")
	if err != nil {
		t.Fatal(err)
	}
	dead := map[core.ItemID]bool{}
	for _, r := range out {
		dead[r.Lease.Item] = r.Dead
	}
	for _, it := range m.leased() {
		if it.lease.Owner != w {
			continue
		}
		if _, ok := dead[it.id]; !ok {
			t.Fatalf("item %d was not released", it.id)
		}
		m.stale = append(m.stale, it.lease)
		it.state, it.lease = "ready", core.Lease{}
		if loss {
			if it.losses++; it.losses >= modelLosses {
				it.state = "dead"
			}
		}
		if dead[it.id] != (it.state == "dead") {
			t.Fatalf("item %d with %d losses: dead %v", it.id, it.losses, dead[it.id])
		}
		delete(dead, it.id)
	}
	if len(dead) > 0 {
		t.Fatalf("items %v were released but not leased", dead)
	}
}

func (m *model) RequeueDead(t *rapid.T) {
	n, err := m.queue.RequeueDead(context.Background(), "q")
	if err != nil {
		t.Fatal(err)
	}
	for _, it := range m.items {
		if it.state == "dead" {
			it.state, it.attempts, it.losses = "ready", 0, 0
			n--
		}
	}
	if n != 0 {
		t.Fatalf("%d items too many were requeued", n)
	}
}

func (m *model) Stale(t *rapid.T) {
	if len(m.stale) == 0 {
		t.Skip("no lease is stale")
	}
	l := rapid.SampledFrom(m.stale).Draw(t, "lease")
	if err := core.AckOne(context.Background(), m.queue, l); !core.IsCode(err, core.CodeLeaseLost) {
		t.Fatalf("an ack with a stale lease on item %d: %v", l.Item, err)
	}
}

func (m *model) Restart(t *rapid.T) {
	if err := m.queue.Close(); err != nil {
		t.Fatal(err)
	}
	m.open(t)
}

func (m *model) Purge(t *rapid.T) {
	if rapid.IntRange(0, 5).Draw(t, "really") != 0 {
		t.Skip("purges are rare")
	}
	n, err := m.queue.Purge(context.Background(), "q")
	if err != nil || n != len(m.items) {
		t.Fatalf("purged %d of %d, %v", n, len(m.items), err)
	}
	for _, it := range m.leased() {
		m.stale = append(m.stale, it.lease)
	}
	m.items = nil
	clear(m.keys)
}

// Discard forgets the queue if it holds nothing; keys of finished items count.
func (m *model) Discard(t *rapid.T) {
	gone, err := m.queue.Discard(context.Background(), "q")
	if err != nil {
		t.Fatal(err)
	}
	if gone && (len(m.items) > 0 || len(m.keys) > 0) {
		t.Fatalf("discarded with %d items and %d keys", len(m.items), len(m.keys))
	}
}

// Check compares the counts and the order of everything after each step.
func (m *model) Check(t *rapid.T) {
	st, err := m.queue.Stats(context.Background(), "q")
	if err != nil {
		t.Fatal(err)
	}
	var ready, leased, dead int64
	for _, it := range m.items {
		switch it.state {
		case "ready":
			ready++
		case "leased":
			leased++
		default:
			dead++
		}
	}
	if st.Ready+st.Delayed != ready || st.Leased != leased || st.Dead != dead {
		t.Fatalf("counts %+v, want ready %d, leased %d, dead %d", st, ready, leased, dead)
	}
}

// TestQueueModel drives the queue and a model of the contract side by side, with a
// window so small that items lie on disk most of the time.
func TestQueueModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := &model{store: memstore.New(memstore.Options{}), keys: map[string]core.ItemID{}, epoch: map[core.WorkerID]uint64{}}
		m.open(t)
		defer func() {
			if err := m.queue.Close(); err != nil {
				t.Error(err)
			}
		}()
		t.Repeat(map[string]func(*rapid.T){
			"enqueue": m.Enqueue, "dequeue": m.Dequeue, "dequeue2": m.Dequeue, "ack": m.Ack, "nack": m.Nack, "release": m.ReleaseOwner,
			"requeue dead": m.RequeueDead, "stale": m.Stale, "restart": m.Restart, "purge": m.Purge, "discard": m.Discard, "": m.Check,
		})
	})
}
