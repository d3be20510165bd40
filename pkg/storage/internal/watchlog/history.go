// Package watchlog keeps the last commits of a store in memory and lets watchers
// follow them.
//
// There is one ring for all watchers. A watcher is a cursor into it and holds no
// events of its own, so a watcher that nobody reads costs nothing and blocks
// nobody: it falls out of the ring and is told so.
package watchlog

import (
	"sort"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Default bounds of the ring. Whichever is reached first counts; the newest
// commit is kept whatever its size, so that a watcher that keeps up loses
// nothing.
const (
	DefaultMaxEvents = 10_000
	DefaultMaxBytes  = 8 << 20
)

// eventOverhead is charged for each event beside its key and value, in bytes.
const eventOverhead = 128

// Change is one row's change.
type Change struct {
	Kind  core.ChangeKind
	Key   core.Key
	Enc   string // encoded key
	Value []byte // of a put; never modified again
}

// Commit is one transaction's changes in key order, never empty.
type Commit struct {
	Revision uint64
	Changes  []Change
}

func (c *Commit) size() int {
	n := 0
	for i := range c.Changes {
		n += eventOverhead + len(c.Changes[i].Enc) + len(c.Changes[i].Value)
	}
	return n
}

// Log is the ring. Its methods may be called concurrently, except Publish, whose
// callers take turns.
type Log struct {
	maxEvents, maxBytes int

	// mu guards everything below. Nothing that can wait happens under it.
	mu      sync.RWMutex
	commits []Commit // consecutive revisions, oldest at head
	head    int      // index of the oldest commit kept
	last    uint64   // revision of the newest commit
	events  int
	bytes   int
	waiting map[*watcher]struct{} // watchers parked in Next
	closed  bool
}

// New returns an empty log of a store whose last revision is last. Bounds of
// zero mean the defaults.
func New(maxEvents, maxBytes int, last uint64) *Log {
	if maxEvents <= 0 {
		maxEvents = DefaultMaxEvents
	}
	if maxBytes <= 0 {
		maxBytes = DefaultMaxBytes
	}
	return &Log{maxEvents: maxEvents, maxBytes: maxBytes, last: last, waiting: map[*watcher]struct{}{}}
}

// floor is the revision before the oldest one kept. mu is held.
func (l *Log) floor() uint64 { return l.last - uint64(len(l.commits)-l.head) }

// Publish appends commits, whose revisions continue the log's without a gap, and
// wakes the watchers that they concern.
func (l *Log) Publish(commits []Commit) {
	if len(commits) == 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	for i := range commits {
		l.commits = append(l.commits, commits[i])
		l.events += len(commits[i].Changes)
		l.bytes += commits[i].size()
	}
	l.last = commits[len(commits)-1].Revision
	for w := range l.waiting {
		if !w.concerns(commits) {
			// A parked watcher has read everything so far, or waits for a revision
			// still to come; it keeps up without being woken.
			w.cursor = max(w.cursor, l.last)
			continue
		}
		delete(l.waiting, w)
		w.wake <- struct{}{} // never blocks: one token for each time it parks
	}
	l.trim()
}

// trim drops the oldest commits until the ring is within its bounds. mu is held.
func (l *Log) trim() {
	for len(l.commits)-l.head > 1 && (l.events > l.maxEvents || l.bytes > l.maxBytes) {
		c := &l.commits[l.head]
		l.events -= len(c.Changes)
		l.bytes -= c.size()
		*c = Commit{}
		l.head++
	}
	if l.head > 64 && l.head > len(l.commits)/2 {
		n := copy(l.commits, l.commits[l.head:])
		clear(l.commits[n:])
		l.commits, l.head = l.commits[:n], 0
	}
}

// Changed reports whether a row of namespace ns with an encoded key in [lo, hi)
// changed after revision since; a nil hi is no bound. known is false when the log
// does not reach back that far.
func (l *Log) Changed(since uint64, ns core.Namespace, lo, hi []byte) (changed, known bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if since < l.floor() {
		return false, false
	}
	if since >= l.last {
		return false, true
	}
	for i := l.index(since + 1); i < len(l.commits); i++ {
		if Touches(l.commits[i].Changes, ns, lo, hi) {
			return true, true
		}
	}
	return false, true
}

// Touches reports whether changes, which are in key order, contain a key of
// namespace ns in [lo, hi).
func Touches(changes []Change, ns core.Namespace, lo, hi []byte) bool {
	i := sort.Search(len(changes), func(i int) bool {
		c := &changes[i]
		return c.Key.Namespace > ns || c.Key.Namespace == ns && c.Enc >= string(lo)
	})
	return i < len(changes) && changes[i].Key.Namespace == ns && (hi == nil || changes[i].Enc < string(hi))
}

// index returns the place of revision rev, which is in the ring. mu is held.
func (l *Log) index(rev uint64) int { return l.head + int(rev-l.floor()-1) }

// Close ends every watcher.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.commits, l.head = nil, 0
	for w := range l.waiting {
		delete(l.waiting, w)
		w.wake <- struct{}{}
	}
}
