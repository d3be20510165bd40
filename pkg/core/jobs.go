package core

import "context"

// PullBudget is what a worker asks for.
type PullBudget struct {
	Slots int   // free slots of the worker; the answer holds at most twice as many items
	Bytes int64 // payload bytes; 0: no limit. The first item comes whatever its size
}

// Work hands items to workers, as the wire reaches it.
//
// A worker's leases live as long as its epoch: losing the stream costs none of
// them. Only death, fencing, deregistration, drain and a nack return items.
type Work interface {
	// Attach opens the work session of a worker's epoch and replaces an earlier
	// one of the same epoch. holding is what the worker still has in hand from
	// there. An epoch that is over is [CodeFenced].
	Attach(ctx context.Context, w WorkerRef, plugins []LoadedPlugin, holding []Lease) (WorkSession, error)
}

// WorkSession is one worker's work stream at the coordinator. Pull is called by
// one goroutine at a time, the others by any.
type WorkSession interface {
	// Resumed returns the items that the epoch holds and that were not in
	// holding, because they were lost on the way, and the leases of holding that
	// no longer hold.
	Resumed() (missed []WorkItem, lost []Lease)

	// Pull waits until items are there that the worker's plugins can serve and
	// leases some: at least one, at most what the budget and a fair share of the
	// backlog allow. It ends with [CodeConflict] when a newer session replaced this
	// one and [CodeFenced] when the epoch is over.
	Pull(ctx context.Context, budget PullBudget) ([]WorkItem, error)

	// Submit commits results, each in the transaction that checks its lease. The
	// answer holds one element for each result: nil, or [CodeLeaseLost] when
	// nothing of it was stored. A failure that may be retried hands the item back.
	Submit(ctx context.Context, results []WorkResult) ([]error, error)

	// Return hands items back untried.
	Return(ctx context.Context, leases []Lease, reason string) error

	// SetPlugins replaces what the worker can serve from the next Pull on.
	SetPlugins(plugins []LoadedPlugin)

	// Close ends the session. Its leases stay with the epoch.
	Close() error
}

// Jobs is what an operator may ask about jobs. The caller's admin identity has
// been checked already.
type Jobs interface {
	// Submit makes a job of the items that next yields until io.EOF, and returns
	// it when every item is durable. Items are worked on while others are still
	// being read. When next fails or ctx ends the job is cancelled: what was
	// finished stays for a job with Resume.
	Submit(ctx context.Context, spec JobSpec, next func() (JobItem, error)) (Job, error)

	// Jobs returns all jobs, newest first, at most limit of them; 0: all.
	Jobs(ctx context.Context, limit int) ([]Job, error)

	// Job returns one job.
	Job(ctx context.Context, id JobID) (Job, error)

	// WatchJob calls send with the job now and whenever it has changed, until it
	// is finished or cancelled or ctx ends. Changes close together are told once.
	WatchJob(ctx context.Context, id JobID, send func(Job) error) error

	// Results sends the job's results in input order from index from. With wait it
	// goes on until the job is finished; without, it sends what is there.
	Results(ctx context.Context, id JobID, from int64, wait bool, send func(ItemResult) error) error

	// CancelJob stops a job. Finished results stay; the other items get a dead
	// result of [CodeCanceled]. A job that is over is left alone.
	CancelJob(ctx context.Context, id JobID, reason string) error

	// JobQueue counts the items of a job's queue.
	JobQueue(ctx context.Context, id JobID) (QueueStats, error)

	// PeekJob returns up to limit unfinished items of a job behind after.
	PeekJob(ctx context.Context, id JobID, after ItemID, limit int) ([]QueueEntry, error)

	// DeadItems returns up to limit dead items of a job behind after.
	DeadItems(ctx context.Context, id JobID, after ItemID, limit int) ([]QueueEntry, error)

	// RequeueDead makes dead items ready with fresh counters, removes their
	// results and opens the job again. No ids means all. It returns how many.
	RequeueDead(ctx context.Context, id JobID, items ...ItemID) (int, error)

	// DropDead removes dead items; their results stay. No ids means all.
	DropDead(ctx context.Context, id JobID, items ...ItemID) (int, error)
}
