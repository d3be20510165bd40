package storage

import (
	"errors"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/keycode"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/watchlog"
)

// group is one bbolt transaction with several transactions of ours in it. It
// belongs to the leader.
type group struct {
	s        *Store
	tx       *bolt.Tx
	reader   rowReader
	arena    keycode.Arena        // keys and envelopes, which bbolt needs until the commit
	sums     map[string]groupStat // changed ones
	revision uint64               // of the last member
	commits  []watchlog.Commit    // of the members that changed something
	members  []*request
	revs     []uint64 // of members
	readOnly bool
}

// attempt commits reqs in one bbolt transaction and answers them. It returns
// those that must be tried again: without a member that failed halfway, or each
// alone when the group does not fit on the disk.
func (s *Store) attempt(reqs []*request, alone bool) (again []*request, each bool) {
	if err := s.brokenErr(opCommit); err != nil {
		answerAll(reqs, 0, err)
		return nil, alone
	}
	s.limitFile(reqs)
	var g *group
	var bad *request
	err := s.writing(func(tx *bolt.Tx) error {
		g = &group{s: s, tx: tx, reader: rowReader{s: s, tx: tx}, sums: map[string]groupStat{}, revision: s.state.revision}
		for _, r := range reqs {
			if err := g.validate(r.tx); err != nil {
				r.answer(0, err)
				continue
			}
			if err := g.apply(r); err != nil {
				bad = r
				return err
			}
		}
		if len(g.commits) == 0 {
			return errNothing
		}
		return g.finish()
	}, func() { s.early(g) })
	switch {
	case errors.Is(err, errNothing):
		g.answer()
	case err == nil:
		s.committed(g)
	case bad != nil && s.brokenErr(opCommit) == nil:
		bad.answer(0, err)
		return unanswered(reqs), alone
	case core.IsCode(err, core.CodeExhausted) && len(reqs) > 1:
		return unanswered(reqs), true
	default:
		answerAll(reqs, 0, err)
	}
	return nil, alone
}

// errNothing ends a group that changes nothing.
var errNothing = errors.New("nothing to commit")

func answerAll(reqs []*request, rev uint64, err error) {
	for _, r := range reqs {
		r.answer(rev, err)
	}
}

func unanswered(reqs []*request) []*request {
	var out []*request
	for _, r := range reqs {
		if !r.answered {
			out = append(out, r)
		}
	}
	return out
}

// early is where tests plant the two classic mistakes.
func (s *Store) early(g *group) {
	s.hook.reach(hookStaged)
	if s.hook.publishEarly {
		s.hist.Publish(g.commits)
	}
	if s.hook.ackEarly {
		g.answer()
	}
}

// committed makes a durable group visible, to watchers first, then to the
// callers.
func (s *Store) committed(g *group) {
	s.hook.reach(hookDurable)
	st := &s.state
	for k, sum := range g.sums {
		if sum.rows == 0 {
			delete(st.groups, k)
		} else {
			st.groups[k] = sum
		}
	}
	st.revision = g.revision
	s.revision.Store(g.revision)
	if !s.hook.publishEarly {
		s.hist.Publish(g.commits)
	}
	s.hook.reach(hookPublished)
	g.answer()
	st.last = time.Now()
	st.unpaired = true
	if !st.armed {
		st.armed = true
		s.idle.Reset(s.cfg.IdleCommit)
	}
}

func (g *group) answer() {
	for i, r := range g.members {
		r.answer(g.revs[i], nil)
	}
}

// apply puts one member into the bbolt transaction. An error leaves a part of it
// there.
func (g *group) apply(r *request) error {
	rev := g.revision + 1
	ops := r.tx.Ops()
	changes := make([]watchlog.Change, 0, len(ops))
	for i := range ops {
		o := &ops[i]
		changed, err := g.applyOp(o.Kind, o.Key.Namespace, o.Enc, rev, o.Value)
		if err != nil {
			return err
		}
		if changed {
			changes = append(changes, watchlog.Change{Kind: o.Kind, Key: o.Key, Enc: o.Enc, Value: o.Value})
		}
	}
	if len(changes) > 0 {
		g.revision = rev
		g.commits = append(g.commits, watchlog.Commit{Revision: rev, Changes: changes})
	}
	g.members = append(g.members, r)
	g.revs = append(g.revs, g.revision)
	return nil
}

func (g *group) applyOp(kind core.ChangeKind, ns core.Namespace, enc string, rev uint64, value []byte) (changed bool, err error) {
	key := g.arena.Bytes(len(enc))
	copy(key, enc)
	old, existed, err := g.reader.get(opCommit, ns, key)
	if err != nil {
		return false, err
	}
	if kind == core.ChangeDelete && !existed {
		return false, nil
	}
	sumKey := groupKey(ns, keycode.Group(key))
	sum, ok := g.sums[string(sumKey)]
	if !ok {
		sum = g.s.state.groups[string(sumKey)]
	}
	if existed {
		sum.remove(old.crc)
	}
	if kind == core.ChangePut {
		var crc uint32
		if crc, err = g.put(ns, key, rev, value); err == nil {
			sum.add(crc)
		}
	} else {
		err = g.reader.bucket.Delete(key)
	}
	if err != nil {
		return false, core.Wrap(opCommit, core.CodeInternal, err)
	}
	g.sums[string(sumKey)] = sum
	return true, nil
}

func (g *group) put(ns core.Namespace, key []byte, rev uint64, value []byte) (crc uint32, err error) {
	if g.reader.bucket == nil {
		if g.reader.bucket, err = g.tx.CreateBucket([]byte(ns)); err != nil {
			return 0, err
		}
	}
	stored := g.arena.Bytes(envelopeMax + len(value))
	stored, crc = appendEnvelope(stored[:0], g.reader.seed, key, rev, value)
	return crc, g.reader.bucket.Put(key, stored)
}

// finish brings the store's own rows up to date.
func (g *group) finish() error {
	own := g.tx.Bucket(bucketOwn)
	if own == nil {
		return core.Errorf(opCommit, core.CodeCorrupt, "the store's own bucket is gone")
	}
	h := head{revision: g.revision, groups: uint64(len(g.s.state.groups))}
	for k, sum := range g.sums {
		_, had := g.s.state.groups[k]
		var err error
		switch {
		case sum.rows > 0:
			err = own.Put([]byte(k), sum.encode([]byte(k)))
			if !had {
				h.groups++
			}
		case had:
			err = own.Delete([]byte(k))
			h.groups--
		}
		if err != nil {
			return core.Wrap(opCommit, core.CodeInternal, err)
		}
	}
	return core.Wrap(opCommit, core.CodeInternal, own.Put(keyHead, h.encode()))
}
