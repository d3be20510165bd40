package cloudlocal_test

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func leaseDefects() []queueDefect {
	return []queueDefect{
		{
			name: "accepts stale acks", mutant: onAcks(func(context.Context, *queueMutant, core.Ack, error) error { return nil }),
			breaks: []string{"finished item is gone", "ack stores its writes", "call on a lost lease", "two grants", "lease that runs out", "released epoch can neither", "purge removes"},
		}, {
			name: "stores the writes of stale acks", mutant: onAcks(func(ctx context.Context, m *queueMutant, a core.Ack, err error) error {
				if err == nil {
					return nil
				}
				for _, w := range a.Writes {
					if _, perr := core.PutBytes(ctx, m.store, w.Key, w.Value); perr != nil {
						return perr
					}
				}
				return err
			}),
			breaks: []string{"ack stores its writes"},
		}, {
			name: "drops the writes of acks", mutant: func() *queueMutant {
				return &queueMutant{ack: func(ctx context.Context, m *queueMutant, acks []core.Ack) ([]error, error) {
					acks = slices.Clone(acks)
					for i := range acks {
						acks[i].Writes = nil
					}
					return m.Queue.Ack(ctx, acks)
				}}
			},
			breaks: []string{"ack stores its writes"},
		}, {
			name: "refuses an ack in a hundred", mutant: ackBug(), breaks: []string{"many producers"},
		}, {
			name: "forgets leases at a restart", mutant: func() *queueMutant {
				return &queueMutant{restart: func(ctx context.Context, m *queueMutant) error {
					held, err := m.Queue.Held(ctx, core.WorkerID{15: 1}, 1)
					if err != nil {
						return err
					}
					for _, it := range held {
						if _, err := core.NackOne(ctx, m.Queue, core.Nack{Lease: it.Lease, Kind: core.NackReturned}); err != nil {
							return err
						}
					}
					return nil
				}}
			},
			breaks: []string{"restart replays", "held shows"},
		}, {
			name: "gives one lease for all grants", mutant: oneToken, breaks: []string{"two grants"},
		}, {
			name: "drops what a dead item should store", mutant: onNacks(func(n *core.Nack) { n.OnDead = nil }), breaks: []string{"hint of never"},
		}, {
			name: "tries again what should never be", mutant: onNacks(func(n *core.Nack) {
				if n.Kind == core.NackFailed && n.Retry.Kind == core.RetryNever {
					n.Retry.Kind = core.RetryNow
				}
			}), breaks: []string{"hint of never"},
		}, {
			name: "ignores delays", mutant: onNacks(func(n *core.Nack) {
				if n.Retry.Kind == core.RetryAfter {
					n.Retry.Kind = core.RetryNow
				}
			}), breaks: []string{"waits out its delay"},
		}, {
			name: "counts what is returned", mutant: onNacks(func(n *core.Nack) {
				if n.Kind == core.NackReturned {
					n.Kind, n.Retry.Kind = core.NackFailed, core.RetryNow
				}
			}), breaks: []string{"returned item is ready"},
		}, {
			name: "counts losses as attempts", mutant: onDelivered(func(_ *queueMutant, items []core.LeasedItem) []core.LeasedItem {
				for i := range items {
					items[i].Attempt += items[i].Losses
				}
				return items
			}),
			breaks: []string{"lease that runs out", "releasing an owner returns"},
		}, {
			name: "counts no losses", mutant: func() *queueMutant {
				return &queueMutant{release: func(ctx context.Context, m *queueMutant, owner core.WorkerID, epoch uint64, _ bool, reason string) ([]core.Released, error) {
					return m.Queue.ReleaseOwner(ctx, owner, epoch, false, reason)
				}}
			},
			breaks: []string{"releasing an owner returns", "losses are used up"},
		}, {
			name: "releases later epochs too", mutant: func() *queueMutant {
				return &queueMutant{release: func(ctx context.Context, m *queueMutant, owner core.WorkerID, epoch uint64, loss bool, reason string) ([]core.Released, error) {
					return m.Queue.ReleaseOwner(ctx, owner, epoch+1, loss, reason)
				}}
			},
			breaks: []string{"releasing an owner returns", "losses are used up"},
		}, {
			name: "lets a released epoch lease", mutant: func() *queueMutant {
				return &queueMutant{dequeue: func(ctx context.Context, m *queueMutant, o core.DequeueOptions) ([]core.LeasedItem, error) {
					items, err := m.Queue.Dequeue(ctx, o)
					if core.IsCode(err, core.CodeFenced) {
						o.Epoch++
						return m.Queue.Dequeue(ctx, o)
					}
					return items, err
				}}
			},
			breaks: []string{"released epoch can neither"},
		}, {
			name: "keeps leases for ever", mutant: onAsked(func(o *core.DequeueOptions) { o.LeaseFor = 0 }), breaks: []string{"lease that runs out"},
		}, {
			name: "extends nothing", mutant: func() *queueMutant {
				return &queueMutant{extend: func(_ context.Context, _ *queueMutant, ls []core.Lease, _ time.Duration) ([]error, error) {
					return make([]error, len(ls)), nil
				}}
			},
			breaks: []string{"extended lease holds", "call on a lost lease", "bad arguments"},
		}, {
			name: "holds nothing", mutant: func() *queueMutant {
				return &queueMutant{held: func(context.Context, *queueMutant, core.WorkerID, uint64) ([]core.LeasedItem, error) { return nil, nil }}
			},
			breaks: []string{"held shows"},
		}, {
			name: "shows what other epochs hold", mutant: func() *queueMutant {
				return &queueMutant{held: func(ctx context.Context, m *queueMutant, owner core.WorkerID, _ uint64) ([]core.LeasedItem, error) {
					return m.Queue.Held(ctx, owner, 1)
				}}
			},
			breaks: []string{"held shows"},
		},
	}
}

// oneToken is a queue all of whose leases have the token 7.
func oneToken() *queueMutant {
	type item struct {
		queue string
		id    core.ItemID
	}
	var mu sync.Mutex
	tokens := map[item]uint64{} // the real ones; guarded by mu
	hide := func(items []core.LeasedItem) []core.LeasedItem {
		mu.Lock()
		defer mu.Unlock()
		for i := range items {
			l := &items[i].Lease
			tokens[item{l.Queue, l.Item}] = l.Token
			l.Token = 7
		}
		return items
	}
	show := func(l core.Lease) core.Lease {
		mu.Lock()
		defer mu.Unlock()
		if l.Token == 7 {
			l.Token = tokens[item{l.Queue, l.Item}]
		}
		return l
	}
	return &queueMutant{
		dequeue: func(ctx context.Context, m *queueMutant, o core.DequeueOptions) ([]core.LeasedItem, error) {
			items, err := m.Queue.Dequeue(ctx, o)
			return hide(items), err
		},
		held: func(ctx context.Context, m *queueMutant, owner core.WorkerID, epoch uint64) ([]core.LeasedItem, error) {
			items, err := m.Queue.Held(ctx, owner, epoch)
			return hide(items), err
		},
		ack: func(ctx context.Context, m *queueMutant, acks []core.Ack) ([]error, error) {
			acks = slices.Clone(acks)
			for i := range acks {
				acks[i].Lease = show(acks[i].Lease)
			}
			return m.Queue.Ack(ctx, acks)
		},
		nack: func(ctx context.Context, m *queueMutant, ns []core.Nack) ([]core.Nacked, error) {
			ns = slices.Clone(ns)
			for i := range ns {
				ns[i].Lease = show(ns[i].Lease)
			}
			return m.Queue.Nack(ctx, ns)
		},
		extend: func(ctx context.Context, m *queueMutant, ls []core.Lease, life time.Duration) ([]error, error) {
			ls = slices.Clone(ls)
			for i := range ls {
				ls[i] = show(ls[i])
			}
			return m.Queue.Extend(ctx, ls, life)
		},
	}
}

func operatorDefects() []queueDefect {
	return []queueDefect{
		{
			name: "forgets the history of dead items", mutant: func() *queueMutant {
				return &queueMutant{dead: func(es []core.QueueEntry) []core.QueueEntry {
					for i := range es {
						es[i].History = nil
					}
					return es
				}}
			},
			breaks: []string{"losses are used up", "dead items carry"},
		}, {
			name: "requeues all dead items whatever was asked", mutant: func() *queueMutant {
				return &queueMutant{requeue: func(ctx context.Context, m *queueMutant, queue string, _ []core.ItemID) (int, error) {
					return m.Queue.RequeueDead(ctx, queue)
				}}
			},
			breaks: []string{"dead items carry"},
		}, {
			name: "purges nothing", mutant: func() *queueMutant {
				return &queueMutant{purge: func(ctx context.Context, m *queueMutant, queue string) (int, error) {
					s, err := m.Queue.Stats(ctx, queue)
					return int(s.Ready + s.Delayed + s.Leased + s.Dead), err
				}}
			},
			breaks: []string{"purge removes"},
		}, {
			name: "leases what is peeked at", mutant: func() *queueMutant {
				return &queueMutant{peek: func(ctx context.Context, m *queueMutant, queue string, after core.ItemID, limit int) ([]core.QueueEntry, error) {
					if _, err := m.Queue.Dequeue(ctx, core.DequeueOptions{Queues: []string{queue}, Owner: core.WorkerID{9}, Epoch: 1, MaxItems: limit}); err != nil {
						return nil, err
					}
					return m.Queue.Peek(ctx, queue, after, limit)
				}}
			},
			breaks: []string{"peek shows"},
		}, {
			name: "counts the dead as ready", mutant: func() *queueMutant {
				return &queueMutant{stats: func(s core.QueueStats) core.QueueStats {
					s.Ready, s.Dead = s.Ready+s.Dead, 0
					return s
				}}
			},
			breaks: []string{"stats and queues"},
		},
	}
}
