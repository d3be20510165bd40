package liveness

import (
	"container/heap"
	"math"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Reasons of a transition.
const (
	ReasonMissed  = "one beat missed"
	ReasonExpired = "silent for longer than the failure timeout"
	ReasonBeat    = "beat received"
)

// RestoreAllowance is what each restored worker adds to the first window after
// a start, because all of them reconnect at once.
const RestoreAllowance = 2 * time.Millisecond

// never is the check time of a worker that is held.
const never = time.Duration(math.MaxInt64)

// Transition is one change of a verdict. The zero value is no change.
type Transition struct {
	Worker core.WorkerRef
	From   core.Liveness
	To     core.Liveness
	Reason string        // one sentence for people
	At     time.Duration // when it was decided
	Due    time.Duration // the deadline that passed, for To failed
	Seen   time.Duration // receipt of the last beat, registration or restore
	Held   bool          // failed during a mass failure: requeue must wait
}

// Changed reports whether t is a change at all.
func (t Transition) Changed() bool { return t.To != "" }

// MassFailure tells how many workers failed within one interval.
type MassFailure struct {
	Failed  int // workers that failed within the last interval
	Workers int // of so many
}

// Report is the outcome of one tick.
type Report struct {
	Transitions []Transition  // in the order of their deadlines, then ids
	Stall       time.Duration // how late the tick came, when that counts as a stall, else 0
	Fresh       bool          // the stall gave every worker a fresh window
	Alarm       *MassFailure  // set on the first tick of a mass failure
}

// entry is one watched worker.
type entry struct {
	ref     core.WorkerRef
	verdict core.Liveness // alive or suspect
	seen    time.Duration // receipt of the last proof of life, for the report
	base    time.Duration // silence counts from here: seen plus time that does not count
	window  time.Duration // base + window is the deadline
	pushed  time.Duration // sum of the short delays granted in this silence
	held    time.Duration // since when it is held; valid while holds > 0
	holds   int           // callers that keep the worker waiting
	check   time.Duration // heap key: no later than its next transition, unless held
	pos     int           // index in the heap
}

// Machine watches workers. It belongs to one goroutine at a time.
type Machine struct {
	timing       core.Timing
	suspectAfter time.Duration // silence that makes suspect
	pulse        time.Duration // longest time between two ticks
	tolerance    time.Duration // lateness of a tick that is no stall
	freshAfter   time.Duration // stall from which on everyone gets a fresh window

	entries  map[core.WorkerID]*entry
	checks   checkHeap
	expected time.Duration // when the next tick is due
	ticking  bool          // a first tick has set expected
	brake    brake

	uncompensated bool // tests only: the fault of a detector that blames workers for its own stall
}

// New returns a machine that watches nobody. The timing must be valid.
func New(t core.Timing) *Machine {
	h := t.HeartbeatInterval
	return &Machine{
		timing:       t,
		suspectAfter: min(h+h/4, h+(t.Failure-h)/2),
		pulse:        min(max(h/16, time.Millisecond), 250*time.Millisecond),
		tolerance:    max(h/16, time.Millisecond),
		freshAfter:   t.SelfFence - h,
		entries:      make(map[core.WorkerID]*entry),
		brake:        brake{interval: h},
	}
}

// Watched returns how many workers are watched.
func (m *Machine) Watched() int { return len(m.checks) }

// Suspects returns how many of the watched are suspect.
func (m *Machine) Suspects() int {
	n := 0
	for _, e := range m.checks {
		if e.verdict == core.LivenessSuspect {
			n++
		}
	}
	return n
}

// Held reports whether a mass failure is going on.
func (m *Machine) Held() bool { return m.brake.on }

// Next returns when the next [Machine.Tick] is due.
func (m *Machine) Next() time.Duration { return m.expected }

// Restored is a worker known from before the start, with the verdict it had.
type Restored struct {
	Ref     core.WorkerRef
	Suspect bool
}

// Restore watches the workers of an earlier start, each with the long first
// window. It is called once, before the first tick.
func (m *Machine) Restore(now time.Duration, ws []Restored) {
	window := max(2*m.timing.HeartbeatInterval+time.Duration(len(ws))*RestoreAllowance, m.timing.Failure)
	for _, w := range ws {
		m.add(now, w.Ref, window)
		if w.Suspect {
			e := m.entries[w.Ref.ID]
			e.verdict = core.LivenessSuspect
			m.schedule(e)
		}
	}
}

// Watch begins an epoch of a worker, alive. Whatever epoch was watched before is
// forgotten without a transition.
func (m *Machine) Watch(now time.Duration, w core.WorkerRef) {
	m.Forget(w.ID)
	m.add(now, w, m.timing.Failure)
}

func (m *Machine) add(now time.Duration, w core.WorkerRef, window time.Duration) {
	e := &entry{ref: w, verdict: core.LivenessAlive, seen: now, base: now, window: window}
	e.check = m.nextCheck(e)
	m.entries[w.ID] = e
	heap.Push(&m.checks, e)
}

// Forget stops watching a worker, whatever its epoch, without a transition.
func (m *Machine) Forget(id core.WorkerID) {
	if e, ok := m.entries[id]; ok {
		heap.Remove(&m.checks, e.pos)
		delete(m.entries, id)
	}
}

// Verdict returns the verdict on a watched epoch, and "" when it is not watched.
func (m *Machine) Verdict(w core.WorkerRef) core.Liveness {
	if e := m.find(w); e != nil {
		return e.verdict
	}
	return ""
}

// Beat records a proof of life. It reports whether that epoch is watched; a
// transition results when the worker was suspect.
func (m *Machine) Beat(now time.Duration, w core.WorkerRef) (tr Transition, watched bool) {
	e := m.find(w)
	if e == nil {
		return Transition{}, false
	}
	e.seen, e.base, e.window, e.pushed = now, now, m.timing.Failure, 0
	if e.verdict == core.LivenessSuspect {
		tr = m.transition(e, now, core.LivenessAlive, ReasonBeat)
		e.verdict = core.LivenessAlive
	}
	// A later check is left where it is and found early: a beat costs no heap
	// work unless the first window after a start ends with it.
	if e.holds == 0 && m.nextCheck(e) < e.check {
		m.schedule(e)
	}
	return tr, true
}

// Disconnect makes a worker suspect at once. Its deadline stays.
func (m *Machine) Disconnect(now time.Duration, w core.WorkerRef, reason string) Transition {
	e := m.find(w)
	if e == nil || e.verdict != core.LivenessAlive {
		return Transition{}
	}
	tr := m.transition(e, now, core.LivenessSuspect, reason)
	e.verdict = core.LivenessSuspect
	if e.holds == 0 {
		m.schedule(e)
	}
	return tr
}

// Hold stops the count for a worker that the caller itself keeps waiting. It
// reports whether anything is watched under that id; only then must
// [Machine.Release] follow.
func (m *Machine) Hold(now time.Duration, id core.WorkerID) bool {
	e, ok := m.entries[id]
	if !ok {
		return false
	}
	if e.holds++; e.holds == 1 {
		e.held = now
		m.schedule(e)
	}
	return true
}

// Release ends one [Machine.Hold] of the same epoch; the time in between does not
// count. An epoch that is no longer watched needs none.
func (m *Machine) Release(now time.Duration, w core.WorkerRef) {
	e := m.find(w)
	if e == nil || e.holds == 0 {
		return
	}
	if e.holds--; e.holds == 0 {
		e.base = min(e.base+now-e.held, now)
		m.schedule(e)
	}
}

func (m *Machine) find(w core.WorkerRef) *entry {
	if e, ok := m.entries[w.ID]; ok && e.ref.Epoch == w.Epoch {
		return e
	}
	return nil
}

func (m *Machine) transition(e *entry, now time.Duration, to core.Liveness, reason string) Transition {
	return Transition{Worker: e.ref, From: e.verdict, To: to, Reason: reason, At: now, Due: e.base + e.window, Seen: e.seen}
}

// suspectAt is when an alive worker becomes suspect: as long before its deadline
// as in an ordinary window.
func (m *Machine) suspectAt(e *entry) time.Duration {
	return e.base + e.window - (m.timing.Failure - m.suspectAfter)
}

func (m *Machine) nextCheck(e *entry) time.Duration {
	switch {
	case e.holds > 0:
		return never
	case e.verdict == core.LivenessAlive:
		return m.suspectAt(e)
	}
	return e.base + e.window
}

func (m *Machine) schedule(e *entry) {
	e.check = m.nextCheck(e)
	heap.Fix(&m.checks, e.pos)
}
