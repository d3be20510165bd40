package storage

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

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

// ledger is what the parent knows of a load from the child's lines.
type ledger struct {
	acked   []ackedTxn       // by writer: the last one acknowledged
	nacked  map[stamp]string // promised not to be kept, and the code
	unknown map[stamp]string // promised nothing
	events  map[stamp]uint64 // seen by a watcher, and the revision
	codes   map[string]int   // codes of failed commits
	acks    int              // of this round
	lowest  uint64           // no revision of this round may be below it
	wrong   []string         // broken promises seen in the lines themselves
	byRev   map[uint64]stamp // acknowledged revisions of this round
}

type ackedTxn struct {
	stamp
	revision uint64
}

func newLedger(writers int) *ledger {
	l := &ledger{acked: make([]ackedTxn, writers)}
	l.newRound()
	return l
}

// newRound forgets what only holds for one life of the store.
func (l *ledger) newRound() {
	l.nacked, l.unknown, l.events = map[stamp]string{}, map[stamp]string{}, map[stamp]uint64{}
	l.codes, l.byRev = map[string]int{}, map[uint64]stamp{}
	l.acks, l.wrong = 0, nil
}

// read takes one line of a load child.
func (l *ledger) read(t testing.TB, words []string) {
	t.Helper()
	if len(words) == 0 {
		return
	}
	var s stamp
	if len(words) == 5 && words[0] != "fail" {
		s = stamp{number(t, words[1]), number(t, words[2]), number(t, words[3])}
	}
	switch words[0] {
	case "ready":
		l.lowest = number(t, words[1])
	case "ack":
		rev := number(t, words[4])
		if rev <= l.lowest {
			l.wrong = append(l.wrong, fmt.Sprintf("%v was acknowledged at revision %d, at or below %d, where the store was opened", s, rev, l.lowest))
		}
		if other, ok := l.byRev[rev]; ok {
			l.wrong = append(l.wrong, fmt.Sprintf("%v and %v were both acknowledged at revision %d", s, other, rev))
		}
		l.byRev[rev] = s
		l.acked[s.writer] = ackedTxn{s, rev}
		l.acks++
	case "nack":
		l.nacked[s] = words[4]
		l.codes[words[4]]++
	case "unknown":
		l.unknown[s] = words[4]
		l.codes[words[4]]++
	case "event":
		rev := number(t, words[4])
		if old, ok := l.events[s]; ok {
			l.wrong = append(l.wrong, fmt.Sprintf("the event of %v came twice, at revisions %d and %d", s, old, rev))
		}
		l.events[s] = rev
	}
}

// check compares an opened store with the ledger and returns every broken promise.
func (l *ledger) check(ctx context.Context, store *Store) []string {
	wrong := slices.Clone(l.wrong)
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	entries, err := store.Scan(ctx, core.NewKey(loadNamespace), core.ScanOptions{})
	if err != nil {
		return append(wrong, fmt.Sprintf("the scan fails: %v", err))
	}
	rows := map[string]core.Entry{}
	for _, e := range entries {
		rows[e.Key.Path[0]+"/"+e.Key.Path[1]] = e
		if e.Revision > store.Revision() {
			bad("row %s has revision %d, the store is at %d", e.Key, e.Revision, store.Revision())
		}
	}
	kept := map[stamp]uint64{}
	for writer := range uint64(len(l.acked)) {
		head, ok := l.checkWriter(rows, writer, bad)
		if ok {
			kept[head.stamp] = head.revision
		}
		acked := l.acked[writer]
		if acked.revision > store.Revision() {
			bad("revision %d was acknowledged, the store is at %d", acked.revision, store.Revision())
		}
		if head.seq < acked.seq {
			bad("writer %d: transaction %d was acknowledged at revision %d, the store has %d: lost", writer, acked.seq, acked.revision, head.seq)
		}
		if head.seq == acked.seq && ok && head != acked {
			bad("writer %d: acknowledged %v, kept %v", writer, acked, head)
		}
		if head.seq > acked.seq+1 {
			bad("writer %d: the store has transaction %d, but %d was never acknowledged", writer, head.seq, acked.seq+1)
		}
		if code, ok := l.nacked[head.stamp]; ok {
			bad("writer %d: %v failed with %s and is kept all the same", writer, head.stamp, code)
		}
		if ok {
			l.acked[writer] = head // what was read once must stay
		}
	}
	for s, rev := range l.events {
		head := stampOf(rows[fmt.Sprintf("w%03d/head", s.writer)])
		if head.seq < s.seq {
			bad("a watcher saw %v at revision %d, which the store does not have (it has %v)", s, rev, head)
		}
		if head == s && kept[s] != rev {
			bad("a watcher saw %v at revision %d, its row has %d", s, rev, kept[s])
		}
	}
	return wrong
}

func stampOf(e core.Entry) stamp {
	s, err := parseStamp(e.Value)
	if err != nil {
		return stamp{}
	}
	return s
}

// checkWriter checks that the rows of a writer are the ones that a whole
// transaction leaves, and returns it.
func (l *ledger) checkWriter(rows map[string]core.Entry, writer uint64, bad func(string, ...any)) (ackedTxn, bool) {
	row := func(name string) (ackedTxn, bool) {
		e, ok := rows[fmt.Sprintf("w%03d/%s", writer, name)]
		if !ok {
			return ackedTxn{}, false
		}
		s, err := parseStamp(e.Value)
		if err != nil || s.writer != writer {
			bad("row %s: %v, %v", e.Key, s, err)
		}
		return ackedTxn{s, e.Revision}, true
	}
	head, ok := row("head")
	if !ok {
		return head, false
	}
	whole := func(name string, want bool) {
		if got, ok := row(name); ok != want || want && got != head {
			bad("writer %d: half a transaction: head is %v, %s is %v (there: %v)", writer, head, name, got, ok)
		}
	}
	whole("twin", true)
	whole(slotName(head.seq), true)
	whole("odd", head.seq%2 == 1)
	for back := uint64(1); back < loadSlots && back < head.seq; back++ {
		if got, ok := row(slotName(head.seq - back)); !ok || got.seq != head.seq-back {
			bad("writer %d: head is %v, the slot of %d holds %v (there: %v)", writer, head, head.seq-back, got, ok)
		}
	}
	return head, true
}
