package worker

import (
	"sync"
	"time"
)

// instant is one moment on the clocks that a lease trusts.
type instant struct {
	at   time.Time     // with its monotonic reading
	boot time.Duration // CLOCK_BOOTTIME, which goes on while the machine sleeps; 0: not known
}

// since returns the time between two instants, the longer of what both clocks say.
// A wall clock that was set changes neither.
func (i instant) since(from instant) time.Duration {
	d := i.at.Sub(from.at)
	if i.boot != 0 && from.boot != 0 {
		d = max(d, i.boot-from.boot)
	}
	return d
}

// maxOutstanding bounds how many beats without an answer are remembered. An answer
// to an older one no longer extends the lease.
const maxOutstanding = 64

// lease says whether the worker may act. It is moved forward by each acknowledged
// beat to the send of that beat, never to the receipt of the answer: the coordinator
// counts from a receipt that is later than the send, so whatever the network delays,
// the worker stops first. Once it has run out it stays so; a new epoch has a new
// lease.
//
// Until the first beat is acknowledged it runs from the answer to the registration,
// which may have taken long among many. Nothing is acted on before that beat, so the
// looser start is safe, but such a lease proves nothing about the coordinator's view.
type lease struct {
	limit time.Duration

	// mu guards the fields below; nothing is called while it is held.
	mu      sync.Mutex
	from    instant            // send of the last acknowledged beat
	pending map[uint64]instant // beats sent and not answered
	proven  bool               // a beat was acknowledged
	over    bool
}

func newLease(registered instant, limit time.Duration) *lease {
	return &lease{limit: limit, from: registered, pending: map[uint64]instant{}}
}

// sent remembers when a beat was handed to the network. It must be called before
// the beat is.
func (l *lease) sent(seq uint64, at instant) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending[seq] = at
	if len(l.pending) > maxOutstanding {
		l.forgetBefore(seq - maxOutstanding + 1)
	}
}

// acked takes the answer to a beat and reports whether the lease holds at now. An
// answer that comes too late extends nothing.
func (l *lease) acked(seq uint64, now instant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if at, known := l.pending[seq]; known && l.holdsLocked(now) {
		if at.since(l.from) > 0 {
			l.from = at
		}
		l.proven = true
		l.forgetBefore(seq + 1)
	}
	return l.holdsLocked(now)
}

func (l *lease) forgetBefore(seq uint64) {
	for s := range l.pending {
		if s < seq {
			delete(l.pending, s)
		}
	}
}

// holds reports whether the worker may act at now, and ends the lease for good when
// it may not.
func (l *lease) holds(now instant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holdsLocked(now)
}

func (l *lease) holdsLocked(now instant) bool {
	if now.since(l.from) >= l.limit {
		l.over = true
	}
	return !l.over
}

// left returns how long the lease still runs, 0 when it is over.
func (l *lease) left(now instant) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.holdsLocked(now) {
		return 0
	}
	return l.limit - now.since(l.from)
}

// provenAt reports whether an acknowledged beat lets the worker act at now.
func (l *lease) provenAt(now instant) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.holdsLocked(now) && l.proven
}

// lastAck returns the send of the last acknowledged beat.
func (l *lease) lastAck() instant {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.from
}
