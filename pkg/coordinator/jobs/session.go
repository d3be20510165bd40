package jobs

import (
	"context"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// pullWait bounds one wait of a pull before it looks at the jobs again.
const pullWait = 30 * time.Second

// session is one worker's work stream.
type session struct {
	book   *Book
	ref    core.WorkerRef
	ctx    context.Context // ends when the session is replaced, closed or fenced
	cancel context.CancelCauseFunc
	missed []core.WorkItem
	lost   []core.Lease

	// pulling is held by Pull. A session that takes over waits for it, because what
	// the earlier one is just leasing must be seen as held.
	pulling sync.Mutex

	// Guarded by Book.mu.
	plugins map[string]string   // name -> digest
	held    map[uint64]heldItem // by the lease's token
	turn    int                 // rotates among jobs of equal priority
}

// heldItem is what a result's row needs beside the result.
type heldItem struct {
	lease   core.Lease
	job     core.JobID
	index   int64
	id      string
	input   []byte
	attempt int
	losses  int
}

// Attach implements [core.Work].
func (b *Book) Attach(ctx context.Context, w core.WorkerRef, plugins []core.LoadedPlugin, holding []core.Lease) (core.WorkSession, error) {
	s := &session{book: b, ref: w, held: make(map[uint64]heldItem)}
	s.ctx, s.cancel = context.WithCancelCause(b.run)
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		s.cancel(nil)
		return nil, core.Errorf("work: attach", core.CodeClosed, "the coordinator is stopping")
	}
	if b.over[w.ID] >= w.Epoch {
		b.mu.Unlock()
		s.cancel(nil)
		return nil, core.Errorf("work: attach", core.CodeFenced, "epoch %d of worker %s is over", w.Epoch, w.ID)
	}
	old := b.sessions[w.ID]
	if old != nil && old.ref.Epoch > w.Epoch {
		b.mu.Unlock()
		s.cancel(nil)
		return nil, core.Errorf("work: attach", core.CodeFenced, "epoch %d of worker %s is over, epoch %d works now", w.Epoch, w.ID, old.ref.Epoch)
	}
	if old != nil {
		old.replace(core.Errorf("work", core.CodeConflict, "a newer stream of worker %s has taken over", w.ID))
	}
	before := b.latest[w.ID]
	b.sessions[w.ID], b.latest[w.ID] = s, s
	b.mu.Unlock()
	if before != nil {
		before.cancel(nil)    // it may have ended already
		before.pulling.Lock() // bounded by one commit
		before.pulling.Unlock()
	}
	s.SetPlugins(plugins)
	if err := s.resume(ctx, holding); err != nil {
		s.detach(err)
		return nil, core.WithOp("work: attach", err)
	}
	return s, nil
}

// resume finds out what became of the leases of the epoch.
func (s *session) resume(ctx context.Context, holding []core.Lease) error {
	items, err := s.book.cfg.Queue.Held(ctx, s.ref.ID, s.ref.Epoch)
	if err != nil {
		return err
	}
	has := make(map[core.Lease]bool, len(holding))
	for _, l := range holding {
		has[l] = true
	}
	for _, it := range items {
		item, ok, err := s.accept(it)
		if err != nil {
			return err
		}
		if has[it.Lease] {
			delete(has, it.Lease)
		} else if ok {
			s.missed = append(s.missed, item)
		}
	}
	for _, l := range holding {
		if has[l] {
			s.lost = append(s.lost, l)
		}
	}
	return nil
}

// accept notes a leased item as held and makes what the worker gets. It reports
// false for an item of a job that takes no results any more.
func (s *session) accept(it core.LeasedItem) (core.WorkItem, bool, error) {
	env, err := decodeEnvelope(it.Payload)
	if err != nil {
		return core.WorkItem{}, false, err
	}
	id, ok := jobOfQueue(it.Lease.Queue)
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	j := s.book.active[id]
	if !ok || j == nil {
		return core.WorkItem{}, false, nil
	}
	s.held[it.Lease.Token] = heldItem{it.Lease, id, env.Index, env.ID, env.Input, it.Attempt, it.Losses}
	w := core.WorkItem{
		Lease: it.Lease, Job: id, Index: env.Index, ID: env.ID, Plugin: j.row.Spec.Plugin, Digest: j.row.Spec.Digest, Method: j.row.Spec.Method,
		Payload: env.Payload, Attempt: it.Attempt, Timeout: j.row.Spec.ItemTimeout, Deadline: j.row.Spec.Deadline,
	}
	copy(w.Content[:], env.Content)
	return w, true, nil
}

// Resumed implements [core.WorkSession].
func (s *session) Resumed() ([]core.WorkItem, []core.Lease) { return s.missed, s.lost }

// SetPlugins implements [core.WorkSession].
func (s *session) SetPlugins(plugins []core.LoadedPlugin) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	s.plugins = make(map[string]string, len(plugins))
	for _, p := range plugins {
		s.plugins[p.Name] = p.Digest
	}
	s.book.announce()
}

// cause prefers why the session ended over the error that this led to.
func (s *session) cause(ctx context.Context, err error) error {
	if s.ctx.Err() != nil {
		if c := context.Cause(s.ctx); core.CodeOf(c) != core.CodeCanceled {
			return c
		}
		return core.Errorf("work: pull", core.CodeClosed, "the session is closed")
	}
	return core.WithOp("work: pull", err)
}

// Holding returns how many items an epoch holds now. It answers from memory.
func (b *Book) Holding(w core.WorkerRef) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.latest[w.ID]; s != nil && s.ref.Epoch == w.Epoch {
		return len(s.held)
	}
	return 0
}

// replace ends the session with a cause. Book.mu is held.
func (s *session) replace(cause error) { s.cancel(cause) }

// detach ends the session and forgets it.
func (s *session) detach(cause error) {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	if s.book.sessions[s.ref.ID] == s {
		delete(s.book.sessions, s.ref.ID)
	}
	s.cancel(cause)
}

// Close implements [core.WorkSession].
func (s *session) Close() error {
	s.detach(core.Errorf("work", core.CodeClosed, "the session is closed"))
	return nil
}
