package cloudlocal_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// onItems is a defect of what is enqueued.
func onItems(change func(it *core.NewItem)) func() *queueMutant {
	return func() *queueMutant {
		return &queueMutant{enqueue: func(ctx context.Context, m *queueMutant, queue string, items []core.NewItem) ([]core.Enqueued, error) {
			items = slices.Clone(items)
			for i := range items {
				change(&items[i])
			}
			return m.Queue.Enqueue(ctx, queue, items)
		}}
	}
}

// onAsked is a defect of what a consumer asks for.
func onAsked(change func(o *core.DequeueOptions)) func() *queueMutant {
	return func() *queueMutant {
		return &queueMutant{dequeue: func(ctx context.Context, m *queueMutant, o core.DequeueOptions) ([]core.LeasedItem, error) {
			change(&o)
			return m.Queue.Dequeue(ctx, o)
		}}
	}
}

// onDelivered is a defect of what a consumer gets.
func onDelivered(change func(m *queueMutant, items []core.LeasedItem) []core.LeasedItem) func() *queueMutant {
	return func() *queueMutant {
		return &queueMutant{dequeue: func(ctx context.Context, m *queueMutant, o core.DequeueOptions) ([]core.LeasedItem, error) {
			items, err := m.Queue.Dequeue(ctx, o)
			return change(m, items), err
		}}
	}
}

func deliveryDefects() []queueDefect {
	return []queueDefect{
		{
			name: "ignores priority", mutant: onItems(func(it *core.NewItem) { it.Priority = 0 }),
			breaks: []string{"higher priority comes first", "order survives", "peek shows"},
		}, {
			name: "delivers the newest first", mutant: onDelivered(func(_ *queueMutant, items []core.LeasedItem) []core.LeasedItem {
				slices.Reverse(items)
				return items
			}),
			breaks: []string{"items come in enqueue order", "higher priority comes first", "order survives", "restart replays", "budget of items", "releasing an owner returns", "dead items carry", "held shows", "idempotency key admits"},
		}, {
			name: "forgets the order at a restart", mutant: onDelivered(func(m *queueMutant, items []core.LeasedItem) []core.LeasedItem {
				if m.reopened {
					slices.Reverse(items)
				}
				return items
			}),
			breaks: []string{"order survives", "restart replays"},
		}, {
			name: "delivers twice", mutant: func() *queueMutant {
				var mu sync.Mutex
				last := map[string][]core.LeasedItem{} // guarded by mu
				return &queueMutant{dequeue: func(ctx context.Context, m *queueMutant, o core.DequeueOptions) ([]core.LeasedItem, error) {
					items, err := m.Queue.Dequeue(ctx, o)
					mu.Lock()
					defer mu.Unlock()
					if q := o.Queues[0]; len(items) > 0 {
						last[q] = items
					} else if err == nil && o.Wait == 0 && last[q] != nil {
						items = last[q]
					}
					return items, err
				}}
			},
			breaks: []string{"leased item is not delivered again", "finished item is gone", "attempts are used up", "waits out its delay", "item with a time"},
		}, {
			name: "forgets at a restart what was enqueued", mutant: func() *queueMutant {
				return &queueMutant{restart: func(ctx context.Context, m *queueMutant) error {
					_, err := m.Queue.Purge(ctx, "q")
					return err
				}}
			},
			breaks: []string{"order survives", "restart replays", "held shows"},
		}, {
			name: "forgets at a restart what was finished", mutant: func() *queueMutant {
				return &queueMutant{restart: func(ctx context.Context, m *queueMutant) error {
					_, err := m.Queue.Enqueue(ctx, "q", []core.NewItem{{Payload: []byte("a")}})
					return err
				}}
			},
			breaks: []string{"finished item is gone", "order survives", "restart replays"},
		}, {
			name: "ignores idempotency keys", mutant: onItems(func(it *core.NewItem) { it.IdempotencyKey = "" }),
			breaks: []string{"idempotency key admits", "bad arguments"},
		}, {
			name: "ignores the time of an item", mutant: onItems(func(it *core.NewItem) { it.NotBefore = time.Time{} }),
			breaks: []string{"item with a time", "peek shows", "stats and queues"},
		}, {
			name: "never gives up", mutant: onItems(func(it *core.NewItem) { it.MaxAttempts, it.MaxLosses = 1000, 1000 }),
			breaks: []string{"attempts are used up", "losses are used up", "dead items carry"},
		}, {
			name: "ignores the budget of bytes", mutant: onAsked(func(o *core.DequeueOptions) { o.MaxBytes = 0 }),
			breaks: []string{"budget of items"},
		}, {
			name: "does not wait", mutant: onAsked(func(o *core.DequeueOptions) { o.Wait = 0 }),
			breaks: []string{"dequeue waits", "first queue that has items", "cancelled wait", "lease that runs out", "attempts are used up", "item with a time", "close ends"},
		}, {
			name: "looks in the last queue first", mutant: onAsked(func(o *core.DequeueOptions) { o.Queues = slices.Clone(o.Queues); slices.Reverse(o.Queues) }),
			breaks: []string{"first queue that has items"},
		}, {
			name: "looks in the first queue alone", mutant: onAsked(func(o *core.DequeueOptions) { o.Queues = o.Queues[:1] }),
			breaks: []string{"first queue that has items"},
		}, {
			name: "answers nil for nothing", mutant: onDelivered(func(_ *queueMutant, items []core.LeasedItem) []core.LeasedItem {
				if len(items) == 0 {
					return nil
				}
				return items
			}),
			breaks: []string{"without wait"},
		}, {
			name: "ends a cancelled wait as an empty one", mutant: func() *queueMutant {
				return &queueMutant{dequeue: func(ctx context.Context, m *queueMutant, o core.DequeueOptions) ([]core.LeasedItem, error) {
					items, err := m.Queue.Dequeue(ctx, o)
					if core.IsCode(err, core.CodeCanceled) {
						err = nil
					}
					return items, err
				}}
			},
			breaks: []string{"cancelled wait"},
		}, {
			name: "accepts any name", mutant: func() *queueMutant {
				return &queueMutant{enqueue: func(ctx context.Context, m *queueMutant, queue string, items []core.NewItem) ([]core.Enqueued, error) {
					out, err := m.Queue.Enqueue(ctx, queue, items)
					if core.IsCode(err, core.CodeInvalidArgument) {
						return m.Queue.Enqueue(ctx, "any", items)
					}
					return out, err
				}}
			},
			breaks: []string{"bad arguments"},
		}, {
			name: "stays open", mutant: func() *queueMutant { return &queueMutant{close: func(*queueMutant) error { return nil }} },
			breaks: []string{"close ends"},
		},
	}
}

// onAcks is a defect of acknowledging.
func onAcks(change func(ctx context.Context, m *queueMutant, a core.Ack, err error) error) func() *queueMutant {
	return func() *queueMutant {
		return &queueMutant{ack: func(ctx context.Context, m *queueMutant, acks []core.Ack) ([]error, error) {
			errs, err := m.Queue.Ack(ctx, acks)
			for i := range errs {
				errs[i] = change(ctx, m, acks[i], errs[i])
			}
			return errs, err
		}}
	}
}

// onNacks is a defect of handing back.
func onNacks(change func(n *core.Nack)) func() *queueMutant {
	return func() *queueMutant {
		return &queueMutant{nack: func(ctx context.Context, m *queueMutant, ns []core.Nack) ([]core.Nacked, error) {
			ns = slices.Clone(ns)
			for i := range ns {
				change(&ns[i])
			}
			return m.Queue.Nack(ctx, ns)
		}}
	}
}

// ackBug lets every hundredth ack of a queue fail.
func ackBug() func() *queueMutant {
	return func() *queueMutant {
		var n atomic.Int64
		return &queueMutant{ack: func(ctx context.Context, m *queueMutant, acks []core.Ack) ([]error, error) {
			errs, err := m.Queue.Ack(ctx, acks)
			if len(errs) > 0 && n.Add(1)%100 == 0 {
				errs[0] = core.Errorf("ack", core.CodeLeaseLost, "the lease no longer holds")
			}
			return errs, err
		}}
	}
}
