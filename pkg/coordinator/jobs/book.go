package jobs

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Config configures a [Book]. Storage, Queue and Objects stay the caller's to
// close, after the book.
type Config struct {
	Storage core.Storage     // required; jobs and results
	Queue   core.Queue       // required; on the same Storage, so that a result and its lease share a transaction
	Objects core.ObjectStore // required; payloads and results above core.MaxInlinePayload

	// Record makes writes and domain events durable in one transaction. Required.
	Record func(ctx context.Context, writes []core.Write, events ...core.Event) error
	// CancelOn tells a worker to stop working on a job. May be nil: its results
	// are refused all the same.
	CancelOn func(ctx context.Context, worker core.WorkerID, job core.JobID) error

	MaxAttempts int          // of a job that names none; default 3
	MaxLosses   int          // of a job that names none; default 5
	Logger      *slog.Logger // nil: slog.Default
}

// Book is the coordinator's book of work. It implements [core.Work] and
// [core.Jobs].
type Book struct {
	cfg Config
	log *slog.Logger
	run context.Context // ends with Close; bounds what runs behind calls
	end context.CancelFunc
	wg  sync.WaitGroup

	// burial is held while dead items and their results are made to agree, across
	// the commits that this takes: one call must not give an item its dead result
	// while another makes it ready. It is taken before every other lock.
	burial sync.Mutex

	flushing chan struct{} // a token for each chunk that is being enqueued

	// mu guards everything below and every job and session. Held for memory work
	// only: no call of Storage, Queue or Objects is made under it.
	mu       sync.Mutex
	active   map[core.JobID]*job
	order    []*job                     // active jobs by descending priority, then age
	sessions map[core.WorkerID]*session // open ones
	latest   map[core.WorkerID]*session // the last of each worker that may hold items
	over     map[core.WorkerID]uint64   // epochs up to this one have been released
	changed  chan struct{}              // closed and replaced when a job can be served that could not before
	closed   bool
}

var (
	_ core.Work = (*Book)(nil)
	_ core.Jobs = (*Book)(nil)
)

// job is an active job in memory.
type job struct {
	id core.JobID
	// saving is held while the row is being changed, across the commit, so that
	// two changes cannot lose one another's fields. It is taken before Book.mu.
	saving  sync.Mutex
	row     jobRow
	counts  core.JobCounts
	busy    int           // submits of results between their halves
	stopped bool          // takes no results and serves no items
	idle    chan struct{} // closed when busy reaches 0 after stopped
	notify  chan struct{} // closed and replaced when something changed; nil: nobody waits
	timer   *time.Timer   // of the deadline
}

// Open loads the book. Submissions that an earlier process left half done are
// cancelled; everything else goes on where it was.
func Open(ctx context.Context, cfg Config) (*Book, error) {
	if cfg.Storage == nil || cfg.Queue == nil || cfg.Objects == nil || cfg.Record == nil {
		return nil, core.Errorf("jobs: open", core.CodeInvalidArgument, "Storage, Queue, Objects and Record are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	cfg.MaxAttempts, cfg.MaxLosses = cmp.Or(cfg.MaxAttempts, 3), cmp.Or(cfg.MaxLosses, 5)
	b := &Book{
		cfg: cfg, log: cfg.Logger,
		active:   make(map[core.JobID]*job),
		sessions: make(map[core.WorkerID]*session),
		latest:   make(map[core.WorkerID]*session),
		over:     make(map[core.WorkerID]uint64),
		changed:  make(chan struct{}),
		flushing: make(chan struct{}, maxFlushing),
	}
	b.run, b.end = context.WithCancel(context.Background())
	if err := b.load(ctx); err != nil {
		b.end()
		b.wg.Wait()
		return nil, core.WithOp("jobs: open", err)
	}
	return b, nil
}

// count adds n results of r's outcome. Book.mu is held, or the job is private.
func (j *job) count(r resultRow, n int64) {
	switch r.Outcome {
	case outcomeOK:
		j.counts.OK += n
		if r.Resumed {
			j.counts.Resumed += n
		}
	case outcomeError:
		j.counts.Error += n
	default:
		j.counts.Dead += n
	}
}

func ended(s core.JobState) bool { return s == core.JobFinished || s == core.JobCanceled }

// activate makes a job servable. mu is held.
func (b *Book) activate(j *job) {
	b.active[j.id] = j
	b.order = append(b.order, j)
	slices.SortFunc(b.order, func(x, y *job) int {
		return cmp.Or(cmp.Compare(y.row.Spec.Priority, x.row.Spec.Priority), slices.Compare(x.id[:], y.id[:]))
	})
	if d := j.row.Spec.Deadline; !d.IsZero() {
		b.wg.Add(1)
		j.timer = time.AfterFunc(time.Until(d), func() {
			defer b.wg.Done()
			if err := b.giveUp(b.run, j, core.CodeDeadlineExceeded, "the job's deadline has passed"); err != nil {
				b.log.Error("a job could not be ended at its deadline", "job_id", j.id, "error", err)
			}
		})
	}
	b.announce()
}

// retire takes a job out of service. mu is held.
func (b *Book) retire(j *job) {
	delete(b.active, j.id)
	b.order = slices.DeleteFunc(b.order, func(o *job) bool { return o == j })
	if j.timer != nil && j.timer.Stop() {
		b.wg.Done()
	}
	j.tell()
}

// announce lets waiting pulls look for jobs again. mu is held.
func (b *Book) announce() {
	close(b.changed)
	b.changed = make(chan struct{})
}

// tell wakes everyone who follows the job. mu is held.
func (j *job) tell() {
	if j.notify != nil {
		close(j.notify)
		j.notify = nil
	}
}

// follow returns a channel that is closed at the job's next change. mu is held.
func (j *job) follow() <-chan struct{} {
	if j.notify == nil {
		j.notify = make(chan struct{})
	}
	return j.notify
}

// enter counts a change of a job's results; false means that the job takes none.
func (b *Book) enter(j *job) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j.stopped || b.active[j.id] != j {
		return false
	}
	j.busy++
	return true
}

// exit ends what enter began.
func (b *Book) exit(j *job) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j.busy--
	if j.busy == 0 && j.idle != nil {
		close(j.idle)
		j.idle = nil
	}
}

// Close ends sessions and waiting calls, and waits for what runs behind them.
func (b *Book) Close() error {
	b.mu.Lock()
	b.closed = true
	for _, j := range b.active {
		if j.timer != nil && j.timer.Stop() {
			b.wg.Done()
		}
		j.tell()
	}
	for _, s := range b.sessions {
		s.replace(core.Errorf("work", core.CodeClosed, "the coordinator is stopping"))
	}
	b.announce()
	b.mu.Unlock()
	b.end()
	b.wg.Wait()
	return nil
}

// writeJob makes a job's row durable, with events.
func (b *Book) writeJob(ctx context.Context, j *job, row jobRow, events ...core.Event) error {
	value, err := encodeJob(row)
	if err != nil {
		return err
	}
	return b.cfg.Record(ctx, []core.Write{{Key: jobKey(j.id), Value: value}}, events...)
}

// finishIfDone ends a job whose items all have a result.
func (b *Book) finishIfDone(ctx context.Context, j *job) error {
	b.mu.Lock()
	done := b.active[j.id] == j && j.row.State == core.JobRunning && !j.stopped && j.counts.Done() >= j.row.Items
	if done {
		j.stopped = true // one caller ends the job
	}
	b.mu.Unlock()
	if !done {
		return nil
	}
	err := b.endJob(ctx, j, core.JobFinished, "")
	if err != nil {
		b.mu.Lock()
		j.stopped = false
		b.mu.Unlock()
	}
	return err
}

// endJob writes the final row of a stopped job and takes it out of service.
func (b *Book) endJob(ctx context.Context, j *job, state core.JobState, reason string) error {
	j.saving.Lock()
	defer j.saving.Unlock()
	b.mu.Lock()
	row := j.row
	row.State, row.Reason, row.Ending, row.EndedAt = state, reason, false, time.Now()
	row.Counts = j.counts
	row.Counts.Leased = 0
	b.mu.Unlock()
	if err := b.writeJob(ctx, j, row, jobEvent(core.TopicJobFinished, j.id, row)); err != nil {
		return err
	}
	b.mu.Lock()
	j.row, j.counts = row, row.Counts
	b.retire(j)
	b.mu.Unlock()
	b.discard(ctx, j.id)
	return nil
}

// discarder is a queue that can forget a queue which holds nothing.
type discarder interface {
	Discard(ctx context.Context, queue string) (bool, error)
}

// discard lets the queue of a job that has ended go, unless dead items are kept in it
// for an operator. Where that fails the next start does it.
func (b *Book) discard(ctx context.Context, id core.JobID) {
	q, ok := b.cfg.Queue.(discarder)
	if !ok {
		return
	}
	if _, err := q.Discard(ctx, queueOf(id)); err != nil && !errGone(err) {
		b.log.Warn("the queue of a finished job could not be let go yet", "job_id", id, "error", err)
	}
}

func jobEvent(topic string, id core.JobID, row jobRow) core.Event {
	c := row.Counts
	attrs := core.Attrs{"job": id.String(), "items": row.Items, "ok": c.OK, "error": c.Error, "dead": c.Dead, "state": string(row.State)}
	if row.Reason != "" {
		attrs["reason"] = row.Reason
	}
	if topic == core.TopicJobSubmitted {
		attrs["plugin"], attrs["method"] = row.Spec.Plugin, row.Spec.Method
	}
	return core.Event{Level: core.LevelInfo, Kind: core.EventDomain, Topic: topic, Attrs: attrs}
}

// public makes the operator's view of a job. mu is held.
func (b *Book) public(j *job) core.Job {
	out := publicRow(j.id, j.row)
	out.Counts = j.counts
	if j.row.State == core.JobOpen || out.Counts.Items == 0 {
		out.Counts.Items = max(out.Counts.Items, j.row.Items)
	}
	for _, s := range b.sessions {
		if s.serves(j) {
			out.Workers++
		}
	}
	return out
}

func publicRow(id core.JobID, row jobRow) core.Job {
	return core.Job{ID: id, Spec: row.Spec, State: row.State, Counts: row.Counts, Reason: row.Reason, CreatedAt: row.CreatedAt, FinishedAt: row.EndedAt}
}

// find returns an active job, or the row of one that has ended.
func (b *Book) find(ctx context.Context, id core.JobID) (*job, jobRow, error) {
	b.mu.Lock()
	j := b.active[id]
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return nil, jobRow{}, core.Errorf("jobs", core.CodeClosed, "the coordinator is stopping")
	}
	if j != nil {
		return j, jobRow{}, nil
	}
	e, err := core.Get(ctx, b.cfg.Storage, jobKey(id))
	if core.IsCode(err, core.CodeNotFound) {
		return nil, jobRow{}, core.Errorf("jobs", core.CodeNotFound, "there is no job %s; `rollout jobs` lists them", id)
	}
	if err != nil {
		return nil, jobRow{}, err
	}
	row, err := decodeJob(e)
	return nil, row, err
}

// errGone reports whether err means that an answer no longer matters.
func errGone(err error) bool {
	return errors.Is(err, context.Canceled) || core.IsCode(err, core.CodeClosed)
}
