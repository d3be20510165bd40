package core

import (
	"context"
	"time"
)

// Limits of a queue.
const (
	MaxQueueNameLen      = 64 // bytes; letters, digits, '-', '_', '.' and '/'
	MaxIdempotencyKeyLen = 256
	MaxPayloadLen        = 16 << 20 // bytes of one item's payload
)

// ItemID numbers the items of one queue from 1 in the order in which they were
// enqueued. A number is never used twice.
type ItemID uint64

// NewItem is an item to enqueue.
type NewItem struct {
	Payload        []byte
	IdempotencyKey string    // when set, an item whose key the queue already holds or has finished within its memory is not enqueued again
	Priority       int32     // higher comes first
	NotBefore      time.Time // not delivered earlier; zero: at once
	MaxAttempts    int       // failures after which the item is dead; 0: the queue's default
	MaxLosses      int       // lost owners after which the item is dead; 0: the queue's default
}

// Enqueued tells what became of a [NewItem].
type Enqueued struct {
	ID        ItemID
	Duplicate bool // the idempotency key was known; ID is the earlier item's
}

// Lease is the right of one owner's epoch to work on one item. Token is unique
// for each grant, so a lease that was given back and granted again, even to the
// same owner, is another lease.
type Lease struct {
	Queue string
	Item  ItemID
	Owner WorkerID
	Epoch uint64
	Token uint64
}

// LeasedItem is an item as it is handed to its owner.
type LeasedItem struct {
	Lease          Lease
	Payload        []byte
	IdempotencyKey string
	Priority       int32
	Attempt        int       // from 1: failures so far plus one
	Losses         int       // owners that died with the item so far
	EnqueuedAt     time.Time // wall clock
	Deadline       time.Time // when the lease runs out; zero: it lives as long as its owner's epoch
}

// DequeueOptions is what a consumer asks for.
type DequeueOptions struct {
	Queues   []string      // required: the queues to look in, in this order
	Owner    WorkerID      // required
	Epoch    uint64        // the owner's epoch
	MaxItems int           // required, at least 1
	MaxBytes int64         // payload bytes; 0: no limit. The first item comes whatever its size
	Wait     time.Duration // wait this long for a first item; 0: do not wait
	LeaseFor time.Duration // the lease's life; 0: until it is finished or its owner's epoch is released
}

// Write is a change of one row that a queue makes durable in the same
// transaction as its own.
type Write struct {
	Key    Key
	Value  []byte
	Delete bool // remove the row instead; Value is ignored
}

// Ack finishes an item.
type Ack struct {
	Lease  Lease
	Writes []Write // stored in the transaction that checks the lease, such as the item's result
}

// NackKind says why an item comes back.
type NackKind uint8

// The kinds of nack.
const (
	NackFailed   NackKind = 1 // the work failed: one more attempt is used up
	NackReturned NackKind = 2 // handed back untried: nothing is counted
)

// Nack hands an item back.
type Nack struct {
	Lease  Lease
	Kind   NackKind
	Code   Code      // why, for the item's history
	Reason string    // for people, at most 4 KiB are kept
	Retry  RetryHint // of a failure: Never makes the item dead at once, After and Backoff delay it
	OnDead []Write   // stored in the same transaction if the item is dead now
}

// Nacked tells what became of a [Nack].
type Nacked struct {
	Dead      bool
	NotBefore time.Time // when the item is delivered again; zero: at once
	Err       error     // CodeLeaseLost when the lease no longer held; nothing changed then
}

// Released is an item that [Queue.ReleaseOwner] took from its owner.
type Released struct {
	Lease          Lease // the lease that ended
	IdempotencyKey string
	Attempt        int
	Losses         int  // after this release
	Dead           bool // losses are used up
}

// Failure is one entry of an item's history.
type Failure struct {
	At     time.Time
	Code   Code
	Reason string
	Owner  WorkerID
	Epoch  uint64
	Loss   bool // the owner died; otherwise the work failed
}

// QueueEntry is an item as an operator sees it.
type QueueEntry struct {
	ID             ItemID
	IdempotencyKey string
	State          string // "ready", "delayed", "leased" or "dead"
	Payload        []byte
	Priority       int32
	Attempts       int // failures so far
	Losses         int
	EnqueuedAt     time.Time
	NotBefore      time.Time
	Owner          WorkerID  // while leased
	Epoch          uint64    // while leased
	Deadline       time.Time // while leased for a time
	History        []Failure // the last 16, oldest first
}

// QueueStats counts the items of one queue.
type QueueStats struct {
	Queue    string
	Ready    int64 // deliverable now
	Delayed  int64 // waiting for their time
	Leased   int64
	Dead     int64
	Enqueued uint64        // since this Queue was opened
	Acked    uint64        // since this Queue was opened
	Oldest   time.Duration // age of the oldest ready item; 0: none
}

// Queue keeps named queues of items, each delivered at least once and finished
// once.
//
// Order: higher priority first, then enqueue order, also across restarts. An
// item that failed or was lost keeps its place and is delivered again when its
// delay is over.
//
// Durability: every method that changes an item returns after the change is
// durable; a restart replays exactly what was not finished. Leases survive a
// restart of the process that holds the queue.
//
// States: an item is ready, delayed, leased or dead, and gone when acknowledged.
// Every transition happens in one transaction that checks the one before. A call
// on a lease that no longer holds is [CodeLeaseLost] and changes nothing.
//
// Counting: attempts count failed work, losses count owners that died; each has
// its own maximum, and an item that reaches one is dead.
//
// A queue that is full, in memory or on disk, answers [CodeExhausted] to Enqueue
// and goes on serving the rest. Queues are made by their first item and need no
// declaration.
type Queue interface {
	// Enqueue adds items, all or none, and returns one answer for each, in order.
	Enqueue(ctx context.Context, queue string, items []NewItem) ([]Enqueued, error)

	// Dequeue leases up to a budget of items to an owner, all from the first of
	// opts.Queues that has any. It waits up to opts.Wait for the first item and
	// returns an empty slice when none came. When ctx ends after items were leased
	// they are returned all the same. A released epoch is CodeFenced.
	Dequeue(ctx context.Context, opts DequeueOptions) ([]LeasedItem, error)

	// Held returns the items that an owner's epoch holds now, with their
	// payloads, in the order of queue and number.
	Held(ctx context.Context, owner WorkerID, epoch uint64) ([]LeasedItem, error)

	// Extend sets the deadline of leases to now + life. The answer holds one
	// element for each lease: nil or CodeLeaseLost.
	Extend(ctx context.Context, leases []Lease, life time.Duration) ([]error, error)

	// Ack finishes items and stores each one's writes with it. The answer holds
	// one element for each ack: nil or CodeLeaseLost.
	Ack(ctx context.Context, acks []Ack) ([]error, error)

	// Nack hands items back. A failure's delay follows its hint, with full jitter
	// and a floor.
	Nack(ctx context.Context, nacks []Nack) ([]Nacked, error)

	// ReleaseOwner ends every lease of that owner's epochs up to and including
	// epoch, in all queues, in one transaction. With loss each item counts one
	// more loss; without, nothing is counted. reason joins the history.
	ReleaseOwner(ctx context.Context, owner WorkerID, epoch uint64, loss bool, reason string) ([]Released, error)

	// Queues returns the names of all queues that hold or held items, sorted.
	Queues(ctx context.Context) ([]string, error)

	// Stats counts one queue's items. An unknown queue has none.
	Stats(ctx context.Context, queue string) (QueueStats, error)

	// Peek returns up to limit items behind after, in enqueue order, whatever
	// their state except dead, and leases nothing.
	Peek(ctx context.Context, queue string, after ItemID, limit int) ([]QueueEntry, error)

	// Dead returns up to limit dead items behind after, in enqueue order.
	Dead(ctx context.Context, queue string, after ItemID, limit int) ([]QueueEntry, error)

	// RequeueDead makes dead items ready with fresh counters; their history
	// stays. It returns how many there were. No ids means all.
	RequeueDead(ctx context.Context, queue string, ids ...ItemID) (int, error)

	// DropDead removes dead items and returns how many. No ids means all.
	DropDead(ctx context.Context, queue string, ids ...ItemID) (int, error)

	// Purge removes every item, leased and dead ones included, and returns how
	// many. Leases on them are lost.
	Purge(ctx context.Context, queue string) (int, error)

	// Close ends waiting calls with CodeClosed. It does not close the Storage
	// beneath.
	Close() error
}

// ReadyCounter is a [Queue] that can say at the cost of a look into memory how
// many items of a queue are ready.
type ReadyCounter interface {
	// Ready returns how many items could be leased now.
	Ready(queue string) int64
}

// EnqueueOne adds one item.
func EnqueueOne(ctx context.Context, q Queue, queue string, item NewItem) (Enqueued, error) {
	out, err := q.Enqueue(ctx, queue, []NewItem{item})
	if err != nil {
		return Enqueued{}, err
	}
	return out[0], nil
}

// AckOne finishes one item.
func AckOne(ctx context.Context, q Queue, lease Lease, writes ...Write) error {
	errs, err := q.Ack(ctx, []Ack{{Lease: lease, Writes: writes}})
	if err != nil {
		return err
	}
	return errs[0]
}

// NackOne hands one item back.
func NackOne(ctx context.Context, q Queue, nack Nack) (Nacked, error) {
	out, err := q.Nack(ctx, []Nack{nack})
	if err != nil {
		return Nacked{}, err
	}
	return out[0], out[0].Err
}
