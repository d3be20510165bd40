package storage

import (
	"errors"
	"io/fs"
	"runtime/debug"
	"strings"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// limitFile keeps a part of a bounded file for groups that only delete.
func (s *Store) limitFile(reqs []*request) {
	if s.cfg.MaxBytes == 0 {
		return
	}
	s.db.MaxSize = int(s.cfg.MaxBytes)
	for _, r := range reqs {
		for i := range r.tx.Ops() {
			if r.tx.Ops()[i].Kind == core.ChangePut {
				s.db.MaxSize = int(s.cfg.putBytes())
				return
			}
		}
	}
}

// writing runs fn in one bbolt transaction and commits it. before runs between
// the two. The error tells what became of it: [core.CodeExhausted] left no trace,
// [core.CodeBroken] and [core.CodeCorrupt] out of bbolt itself stop the store,
// and an error of fn is returned as it is.
func (s *Store) writing(fn func(tx *bolt.Tx) error, before func()) (err error) {
	var tx *bolt.Tx
	committing := false
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = panicked(opCommit, r)
			if committing { // what of it is on disk is unknown
				err = core.Wrap(opCommit, core.CodeBroken, err)
			}
			s.abandon(tx, err)
		}
	}()
	if tx, err = s.db.Begin(true); err != nil {
		err = core.Wrap(opCommit, core.CodeBroken, err)
		s.settle(0, err)
		return err
	}
	if err := fn(tx); err != nil {
		endRead(tx)
		return err
	}
	before()
	id := uint64(tx.ID())
	committing = true
	commit := tx.Commit
	if s.hook.commit != nil {
		commit = func() error { return s.hook.commit(tx) }
	}
	if err := commit(); err != nil {
		return s.failed(id, err)
	}
	s.settle(id, nil)
	return nil
}

// failed judges an error of bbolt's commit of transaction id.
func (s *Store) failed(id uint64, err error) error {
	if isFull(err) && !s.shows(id) {
		s.settle(0, nil)
		return core.Wrap(opCommit, core.CodeExhausted, err)
	}
	err = core.Wrap(opCommit, core.CodeBroken, err)
	if s.shows(id) {
		if rerr := s.revertMeta(id); rerr != nil {
			s.log.Warn("storage: the failed commit could not be hidden; reads are refused too", "path", s.cfg.Path, "err", rerr)
		}
	}
	s.settle(0, err)
	s.log.Error("storage: a commit failed; no further ones are accepted until the store is opened again", "path", s.cfg.Path, "err", err)
	return err
}

// shows reports whether readers could meet bbolt's transaction id, because its
// meta page was written.
func (s *Store) shows(id uint64) bool {
	tx, err := s.db.Begin(false)
	if err != nil {
		return true
	}
	defer endRead(tx)
	return uint64(tx.ID()) >= id
}

// abandon stops the store after a panic in the middle of a commit.
func (s *Store) abandon(tx *bolt.Tx, cause error) {
	s.settle(0, cause)
	s.log.Error("storage: a commit met damage; no further ones are accepted until the store is opened again", "path", s.cfg.Path, "err", cause)
	if tx == nil {
		s.state.wedged = true
		return
	}
	if err := guarded(opCommit, tx.Rollback); err != nil && !errors.Is(err, berrors.ErrTxClosed) {
		s.state.wedged = true
	}
}

// isFull reports whether a commit failed for want of room before anything of it
// counted: on a write, or while the file was made longer.
func isFull(err error) bool {
	if errors.Is(err, berrors.ErrMaxSizeReached) {
		return true
	}
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Op == "write" && (errors.Is(pe.Err, unix.ENOSPC) || errors.Is(pe.Err, unix.EDQUOT) || errors.Is(pe.Err, unix.EFBIG))
	}
	// bbolt keeps only the text of this one.
	text := err.Error()
	return strings.HasPrefix(text, "file resize error") &&
		(strings.Contains(text, unix.ENOSPC.Error()) || strings.Contains(text, unix.EDQUOT.Error()) || strings.Contains(text, unix.EFBIG.Error()))
}
