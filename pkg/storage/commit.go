package storage

import (
	"context"
	"runtime"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/txn"
)

// Bounds of one group of more than one transaction, so that a long queue neither
// makes one huge sync nor pushes its own beginning out of the watchers' history,
// of which a group fills at most half.
const (
	groupTxns    = 1024
	groupChanges = 4096
	groupBytes   = 4 << 20
)

// request is one transaction on its way to disk.
type request struct {
	tx        *txn.Txn
	done      chan struct{} // closed once rev and err are set; nil for the leader's own
	withdrawn bool          // guarded by queueMu; its caller has left before it was taken
	taken     bool          // guarded by queueMu
	answered  bool          // belongs to the leader
	rev       uint64
	err       error
}

func (r *request) answer(rev uint64, err error) {
	if r.answered {
		return
	}
	r.answered, r.rev, r.err = true, rev, err
	if r.done != nil {
		close(r.done)
	}
}

// Begin implements [core.Storage].
func (s *Store) Begin(ctx context.Context) (core.Txn, error) {
	const op = "storage: begin"
	if err := ctx.Err(); err != nil {
		return nil, core.Wrap(op, core.CodeCanceled, err)
	}
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	if s.closing {
		return nil, errClosed(op)
	}
	return txn.New(s), nil
}

// enter counts one commit in, unless the store is closing.
func (s *Store) enter(op string) error {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	if s.closing {
		return errClosed(op)
	}
	s.active.Add(1)
	return nil
}

// CommitTxn is Commit for a transaction. A caller whose context ends while the
// transaction waits in the queue takes it back, and it is not stored. A caller
// who commits for others returns when that is done.
func (s *Store) CommitTxn(ctx context.Context, tx *txn.Txn) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, core.Wrap(opCommit, core.CodeCanceled, err)
	}
	if err := s.enter(opCommit); err != nil {
		return 0, err
	}
	defer s.active.Done()
	if len(tx.Ops()) == 0 {
		return s.validateOnly(ctx, tx)
	}
	if s.cfg.ReadOnly {
		return 0, core.Errorf(opCommit, core.CodeUnsupported, "%s is open for reading only", s.cfg.Path)
	}
	select {
	case s.lead <- struct{}{}: // nobody commits: no queue, no hand-over
		req := &request{tx: tx}
		s.commitNext(req)
		<-s.lead
		return req.rev, req.err
	default:
		return s.enqueue(ctx, tx)
	}
}

// validateOnly commits a transaction that changes nothing.
func (s *Store) validateOnly(ctx context.Context, tx *txn.Txn) (rev uint64, err error) {
	err = s.view(ctx, opCommit, func(btx *bolt.Tx) error {
		h, err := storedHead(opCommit, btx)
		if err != nil {
			return err
		}
		rev = h.revision
		g := group{s: s, tx: btx, reader: rowReader{s: s, tx: btx}, revision: h.revision, readOnly: true}
		return g.validate(tx)
	})
	return rev, err
}

// enqueue hands a transaction to whoever commits next, which may be the caller.
func (s *Store) enqueue(ctx context.Context, tx *txn.Txn) (uint64, error) {
	select {
	case s.slots <- struct{}{}:
	default:
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return 0, core.Wrap(opCommit, core.CodeCanceled, ctx.Err())
		}
	}
	req := &request{tx: tx, done: make(chan struct{})}
	s.queueMu.Lock()
	s.queue = append(s.queue, req)
	s.queueMu.Unlock()
	select {
	case <-req.done:
	case s.lead <- struct{}{}:
		for !req.answered { // the queue before it may be longer than one group
			s.commitNext(nil)
		}
		<-s.lead
	case <-ctx.Done():
		s.queueMu.Lock()
		defer s.queueMu.Unlock()
		req.withdrawn = !req.taken
		return 0, core.Wrap(opCommit, core.CodeCanceled, ctx.Err())
	}
	return req.rev, req.err
}

// commitNext commits one group: own, if there is one, and what is queued. The
// caller holds the lead.
func (s *Store) commitNext(own *request) {
	s.awaitFollowers()
	reqs := s.take(own)
	s.state.lastGroup = len(reqs)
	alone := false
	for len(reqs) > 0 {
		n := len(reqs)
		if alone {
			n = 1
		}
		var rest []*request
		rest, alone = s.attempt(reqs[:n], alone)
		reqs = append(rest, reqs[n:]...)
	}
}

// awaitFollowers lets the callers run who were answered by the last group and are
// about to submit again, since one large group costs less than a small one and
// another. It does not wait: alone, it returns at once.
func (s *Store) awaitFollowers() {
	for i := 0; i < 4 && s.state.lastGroup > 1; i++ {
		s.queueMu.Lock()
		n := len(s.queue)
		s.queueMu.Unlock()
		if n+1 >= s.state.lastGroup {
			return
		}
		runtime.Gosched()
	}
}

// take returns the next group: own, if there is one, and what fits of the queue.
func (s *Store) take(own *request) []*request {
	s.queueMu.Lock()
	defer s.queueMu.Unlock()
	reqs := make([]*request, 0, min(len(s.queue), groupTxns)+1)
	changes, size := 0, 0
	add := func(r *request) bool {
		changes += len(r.tx.Ops())
		size += r.tx.Bytes()
		if len(reqs) > 0 && (len(reqs) == groupTxns || changes > s.groupChanges || size > s.groupBytes) {
			return false
		}
		reqs = append(reqs, r)
		return true
	}
	if own != nil {
		add(own)
	}
	n := 0
	for ; n < len(s.queue); n++ {
		r := s.queue[n]
		if !r.withdrawn && !add(r) {
			break
		}
		r.taken = true
		<-s.slots
	}
	left := copy(s.queue, s.queue[n:])
	clear(s.queue[left:])
	s.queue = s.queue[:left]
	return reqs
}

// Close implements [core.Storage].
func (s *Store) Close() error {
	s.closeOnce.Do(func() { s.closeErr = s.close() })
	return s.closeErr
}

func (s *Store) close() error {
	s.queueMu.Lock()
	s.closing = true
	s.queueMu.Unlock()
	s.active.Wait()
	s.idle.Stop()
	s.hist.Close()
	var err error
	if s.state.unpaired && s.brokenErr(opCommit) == nil {
		err = s.emptyCommit()
	}
	if cerr := s.closeBolt(); err == nil {
		err = cerr
	}
	return err
}

// closeBolt releases the file. After a panic inside a commit bbolt may hold its
// own locks for ever; then only the file is closed and the mapping stays.
func (s *Store) closeBolt() error {
	if s.db == nil {
		return nil
	}
	err := guarded("storage: close", func() error {
		if s.state.wedged {
			return s.file.Close()
		}
		return s.db.Close()
	})
	if err != nil && !core.IsCode(err, core.CodeCorrupt) {
		return core.Wrap("storage: close", core.CodeBroken, err)
	}
	return err
}
