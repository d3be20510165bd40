//go:build linux

package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// The load: each writer commits numbered transactions. Transaction n of a writer
// writes its rows head and twin, its slot n%slots, and writes the row odd when n
// is odd and removes it when n is even. All rows of one transaction carry the same
// stamp, so that a transaction that was kept in part shows.

const loadSlots = 4

var loadNamespace = core.NamespaceItems

// stamp identifies one attempt of one transaction.
type stamp struct {
	writer, seq, try uint64
}

// value is the stamp and a filler that depends on it, so that a mixture of two
// values shows.
func (s stamp) value() []byte {
	rnd := rand.New(rand.NewPCG(s.writer<<32|s.try, s.seq))
	b := make([]byte, 24+rnd.IntN(300))
	for i := 24; i < len(b); i++ {
		b[i] = byte(rnd.Uint32())
	}
	binary.BigEndian.PutUint64(b, s.writer)
	binary.BigEndian.PutUint64(b[8:], s.seq)
	binary.BigEndian.PutUint64(b[16:], s.try)
	return b
}

func parseStamp(b []byte) (stamp, error) {
	if len(b) < 24 {
		return stamp{}, fmt.Errorf("a value of %d bytes", len(b))
	}
	s := stamp{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}
	if !bytes.Equal(b, s.value()) {
		return s, fmt.Errorf("the value of %v is not what was written", s)
	}
	return s, nil
}

func loadKey(writer uint64, name string) core.Key {
	return core.NewKey(loadNamespace, fmt.Sprintf("w%03d", writer), name)
}

func slotName(seq uint64) string { return fmt.Sprintf("slot%d", seq%loadSlots) }

// stageLoad stages a transaction of the load.
func stageLoad(tx core.Txn, s stamp) error {
	v := s.value()
	for _, name := range []string{"head", slotName(s.seq), "twin"} {
		if err := tx.Put(loadKey(s.writer, name), v); err != nil {
			return err
		}
	}
	if s.seq%2 == 0 {
		return tx.Delete(loadKey(s.writer, "odd"))
	}
	return tx.Put(loadKey(s.writer, "odd"), v)
}

// childLoad opens the store and keeps Writers writers committing. It reports
//
//	ready REVISION                   the store is open
//	ack WRITER SEQ TRY REVISION      Commit returned nil
//	nack WRITER SEQ TRY CODE         Commit failed and promised that nothing is kept
//	unknown WRITER SEQ TRY CODE      Commit failed and promised nothing
//	event WRITER SEQ TRY REVISION    a watcher saw it
func childLoad(ctx context.Context, c *childProcess) error {
	h := bugHooks(c.t, c.Bug)
	if c.Stop != "" {
		h.at = dieAt(hookPoint(c.Stop), c.StopAt)
	}
	store, err := openHooked(ctx, c.Path, h)
	if err != nil {
		return fmt.Errorf("open: %w", err)
	}
	c.store = store
	heads, err := loadHeads(ctx, store, c.Writers)
	if err != nil {
		return fmt.Errorf("read heads: %w", err)
	}
	w, err := store.Watch(ctx, core.NewKey(loadNamespace), 0)
	if err != nil {
		return fmt.Errorf("watch: %w", err)
	}
	c.say("ready %d", store.Revision())
	go c.followLoad(ctx, w)

	fault := childFault(c)
	var group sync.WaitGroup
	for writer := range uint64(c.Writers) {
		group.Go(func() { c.writeLoad(ctx, writer, heads[writer], fault) })
	}
	group.Wait()
	return nil
}

// followLoad reports what a watcher of everything sees, until it lags too far
// behind, which a watcher on a loaded machine may.
func (c *childProcess) followLoad(ctx context.Context, w core.Watcher) {
	for {
		commit, err := w.Next(ctx)
		if err != nil {
			return
		}
		for _, change := range commit.Changes {
			if change.Kind != core.ChangePut || change.Key.Path[1] != "head" {
				continue
			}
			s, err := parseStamp(change.Value)
			if err != nil {
				c.say("fail event: %v", err)
				return
			}
			c.say("event %d %d %d %d", s.writer, s.seq, s.try, commit.Revision)
		}
	}
}

// writeLoad is one writer. It ends when the store is broken or closed.
func (c *childProcess) writeLoad(ctx context.Context, writer, head uint64, fault *faultInjector) {
	s := stamp{writer: writer, seq: head + 1, try: uint64(c.Round) << 20}
	for n := 0; c.Ops == 0 || n < c.Ops; n++ {
		s.try++
		rev, err := c.commitLoad(ctx, s)
		switch {
		case err == nil:
			c.say("ack %d %d %d %d", s.writer, s.seq, s.try, rev)
			s.seq++
			fault.acked()
		case core.IsCode(err, core.CodeBroken):
			// The sync failed: what is on disk is unknown until the store is opened again.
			c.say("unknown %d %d %d %s", s.writer, s.seq, s.try, core.CodeOf(err))
			fault.nacked(ctx)
			return
		default:
			c.say("nack %d %d %d %s", s.writer, s.seq, s.try, core.CodeOf(err))
			if !fault.nacked(ctx) {
				return
			}
		}
	}
}

func (c *childProcess) commitLoad(ctx context.Context, s stamp) (uint64, error) {
	tx, err := c.store.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer tx.Discard()
	if err := stageLoad(tx, s); err != nil {
		return 0, err
	}
	return tx.Commit(ctx)
}

// loadHeads reads where each writer stopped.
func loadHeads(ctx context.Context, store *Store, writers int) ([]uint64, error) {
	heads := make([]uint64, writers)
	for writer := range heads {
		es, err := store.GetMany(ctx, loadKey(uint64(writer), "head"))
		if err != nil {
			return nil, err
		}
		if !es[0].Exists() {
			continue
		}
		s, err := parseStamp(es[0].Value)
		if err != nil {
			return nil, err
		}
		heads[writer] = s.seq
	}
	return heads, nil
}
