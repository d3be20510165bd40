//go:build linux

package storage

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

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
