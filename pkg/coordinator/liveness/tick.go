package liveness

import (
	"container/heap"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Tick applies the passage of time up to now. It first notices whether this
// process itself did not run, then makes the transitions that are due.
func (m *Machine) Tick(now time.Duration) Report {
	var r Report
	if m.ticking && now > m.expected+m.tolerance {
		r.Stall = now - m.expected
		r.Fresh = m.Stall(now, r.Stall)
	}
	m.ticking = true
	for len(m.checks) > 0 && m.checks[0].check <= now {
		if tr := m.step(m.checks[0], now); tr.Changed() {
			r.Transitions = append(r.Transitions, tr)
		}
	}
	r.Alarm = m.applyBrake(now, r.Transitions)
	m.expected = now + m.pulse
	if len(m.checks) > 0 {
		m.expected = min(m.expected, m.checks[0].check)
	}
	return r
}

// step makes the transition of the entry at the top of the heap, or finds that
// beats have moved its check since.
func (m *Machine) step(e *entry, now time.Duration) Transition {
	switch {
	case e.base+e.window <= now:
		tr := m.transition(e, now, core.LivenessFailed, ReasonExpired)
		heap.Remove(&m.checks, e.pos)
		delete(m.entries, e.ref.ID)
		return tr
	case e.verdict == core.LivenessAlive && m.suspectAt(e) <= now:
		tr := m.transition(e, now, core.LivenessSuspect, ReasonMissed)
		e.verdict = core.LivenessSuspect
		m.schedule(e)
		return tr
	}
	m.schedule(e)
	return Transition{}
}

// Stall tells that this process did not run for d until now, and reports whether
// that gave every worker a fresh window. Tick calls it by itself; a caller does
// for time that the monotonic clock does not show, such as a suspended machine.
func (m *Machine) Stall(now, d time.Duration) (fresh bool) {
	if m.uncompensated {
		return false
	}
	fresh = d >= m.freshAfter
	for _, e := range m.checks {
		if fresh {
			e.base, e.pushed = now, 0
			continue
		}
		push := min(d, m.timing.Failure-e.pushed)
		e.pushed += push
		e.base = min(e.base+push, now)
	}
	m.brake.shift(d)
	// Every check is now early, which a tick repairs one by one. Held entries keep
	// theirs until they are released.
	return fresh
}

// applyBrake marks the failures of this tick as held when they belong to a mass
// failure, and returns the alarm when it begins.
func (m *Machine) applyBrake(now time.Duration, trs []Transition) *MassFailure {
	failed := 0
	for _, tr := range trs {
		if tr.To == core.LivenessFailed {
			failed++
		}
	}
	alarm := m.brake.record(now, failed, len(m.checks))
	if m.brake.on {
		for i := range trs {
			trs[i].Held = trs[i].To == core.LivenessFailed
		}
	}
	return alarm
}
