package liveness

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const testH = 500 * time.Millisecond

func ref(n int, epoch uint64) core.WorkerRef {
	var id core.WorkerID
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return core.WorkerRef{ID: id, Epoch: epoch}
}

// run ticks as often as the machine asks until to, and collects the transitions.
func run(m *Machine, from, to time.Duration) (out []Transition) {
	for now := from; now <= to; {
		r := m.Tick(now)
		out = append(out, r.Transitions...)
		now = max(m.Next(), now+1)
	}
	return out
}

func TestSilenceMakesSuspectThenFailed(t *testing.T) {
	m := New(core.DefaultTiming(testH))
	m.Tick(0)
	m.Watch(0, ref(1, 7))
	got := run(m, 0, 2*testH)
	if len(got) != 2 {
		t.Fatalf("want suspect and failed, got %+v", got)
	}
	if got[0].To != core.LivenessSuspect || got[0].At != testH+testH/4 || got[0].From != core.LivenessAlive {
		t.Errorf("first transition must be suspect after 1.25 H: %+v", got[0])
	}
	f := got[1]
	if f.To != core.LivenessFailed || f.From != core.LivenessSuspect || f.Due != testH*7/4 || f.At < f.Due || f.Worker != ref(1, 7) {
		t.Errorf("second transition must be failed at 1.75 H: %+v", f)
	}
	if m.Watched() != 0 {
		t.Error("a failed epoch must not be watched any more")
	}
	if _, watched := m.Beat(2*testH, ref(1, 7)); watched {
		t.Error("a beat of a failed epoch must not be accepted")
	}
}

func TestBeatRecoversSuspect(t *testing.T) {
	m := New(core.DefaultTiming(testH))
	m.Watch(0, ref(1, 1))
	if tr := m.Disconnect(1, ref(1, 1), "connection reset"); tr.To != core.LivenessSuspect || tr.Reason != "connection reset" {
		t.Fatalf("a broken connection must make suspect at once: %+v", tr)
	}
	if tr := m.Disconnect(2, ref(1, 1), "again"); tr.Changed() {
		t.Errorf("a suspect worker cannot become suspect: %+v", tr)
	}
	tr, watched := m.Beat(3, ref(1, 1))
	if !watched || tr.From != core.LivenessSuspect || tr.To != core.LivenessAlive {
		t.Errorf("a beat must recover: %+v %v", tr, watched)
	}
	if tr, watched = m.Beat(4, ref(1, 1)); !watched || tr.Changed() {
		t.Errorf("a second beat must change nothing: %+v %v", tr, watched)
	}
}

func TestOtherEpochIsIgnored(t *testing.T) {
	m := New(core.DefaultTiming(testH))
	m.Watch(0, ref(1, 2))
	for _, epoch := range []uint64{1, 3} {
		if _, watched := m.Beat(1, ref(1, epoch)); watched {
			t.Errorf("beat of epoch %d accepted while 2 is watched", epoch)
		}
		if tr := m.Disconnect(1, ref(1, epoch), "x"); tr.Changed() {
			t.Errorf("disconnect of epoch %d acted on epoch 2", epoch)
		}
	}
	m.Watch(2, ref(1, 3))
	if m.Watched() != 1 || m.Verdict(ref(1, 3)) != core.LivenessAlive || m.Verdict(ref(1, 2)) != "" {
		t.Error("a new epoch must replace the old one")
	}
}

func TestRestoredWorkersHaveALongWindow(t *testing.T) {
	m := New(core.DefaultTiming(testH))
	var ws []Restored
	for i := range 100 {
		ws = append(ws, Restored{Ref: ref(i, 1), Suspect: i == 0})
	}
	m.Restore(0, ws)
	window := 2*testH + 200*time.Millisecond
	if got := failed(run(m, 0, window-1)); len(got) != 0 {
		t.Fatalf("%d restored workers failed inside their window", len(got))
	}
	if got := failed(run(m, window, window+testH/16)); len(got) != 100 {
		t.Errorf("%d of 100 silent restored workers failed at the window's end", len(got))
	}
}

func TestRestoredWorkerThatBeatsHasTheOrdinaryWindow(t *testing.T) {
	m := New(core.DefaultTiming(testH))
	ws := make([]Restored, 1000)
	for i := range ws {
		ws[i].Ref = ref(i, 1)
	}
	m.Restore(0, ws)
	m.Beat(testH/10, ref(5, 1))
	got := failed(run(m, testH/10, testH/10+2*testH))
	if len(got) != 1 || got[0].Worker != ref(5, 1) {
		t.Errorf("the long window must end with the first beat, got %d failures", len(got))
	}
}

func TestHoldStopsTheCount(t *testing.T) {
	m := New(core.DefaultTiming(testH))
	m.Watch(0, ref(1, 1))
	if !m.Hold(testH, ref(1, 1).ID) || m.Hold(testH, ref(2, 1).ID) {
		t.Fatal("only a watched id can be held")
	}
	m.Hold(2*testH, ref(1, 1).ID)
	m.Release(3*testH, ref(1, 1))
	if got := run(m, testH, 10*testH); len(got) != 0 {
		t.Fatalf("held worker got %+v", got)
	}
	m.Release(10*testH, ref(1, 1))
	got := failed(run(m, 10*testH, 12*testH))
	if len(got) != 1 || got[0].Due != 10*testH+testH*3/4 {
		t.Errorf("after the hold the remaining 0.75 H must count: %+v", got)
	}
}

func TestMassFailureHoldsAndAlarmsOnce(t *testing.T) {
	m := New(core.DefaultTiming(testH))
	m.Tick(0)
	for i := range 40 {
		m.Watch(time.Duration(i)*time.Microsecond, ref(i, 1))
	}
	alarms, held, total := 0, 0, 0
	for now := m.Next(); now <= 2*testH; now = max(m.Next(), now+1) {
		for i := 24; i < 40; i++ { // 40 % live on
			m.Beat(now, ref(i, 1))
		}
		r := m.Tick(now)
		if r.Alarm != nil {
			alarms++
			if 2*r.Alarm.Failed <= r.Alarm.Workers || r.Alarm.Failed < massFloor {
				t.Errorf("alarm below the threshold: %+v", *r.Alarm)
			}
		}
		for _, tr := range failed(r.Transitions) {
			total++
			if tr.Held {
				held++
			}
		}
	}
	if total != 24 || alarms != 1 || held == 0 || !m.Held() {
		t.Errorf("failed %d of 24, alarms %d, held %d, on %v", total, alarms, held, m.Held())
	}
	for now := m.Next(); now <= 5*testH; now = max(m.Next(), now+1) {
		for i := 24; i < 40; i++ {
			m.Beat(now, ref(i, 1))
		}
		m.Tick(now)
	}
	if m.Held() {
		t.Error("the brake must end after an interval without failures")
	}
}

func TestHalfOrFewIsNoMassFailure(t *testing.T) {
	for _, c := range []struct{ dead, all int }{{9, 10}, {50, 100}, {9, 9}} {
		b := brake{interval: testH}
		if a := b.record(0, c.dead, c.all-c.dead); a != nil || b.on {
			t.Errorf("%d of %d must not be a mass failure", c.dead, c.all)
		}
	}
}

func TestShortDelaysCannotHideADeathForEver(t *testing.T) {
	timing := core.DefaultTiming(testH)
	m := New(timing)
	m.Tick(0)
	m.Watch(0, ref(1, 1))
	for now := time.Duration(0); now < 4*timing.Failure; now = m.Next() + testH/10 { // always late
		if fs := failed(m.Tick(now).Transitions); len(fs) == 1 {
			if now > 2*timing.Failure+testH/2 {
				t.Errorf("found only after %v", now)
			}
			return
		}
	}
	t.Error("a detector that is always a little late never found the dead worker")
}

func failed(trs []Transition) (out []Transition) {
	for _, tr := range trs {
		if tr.To == core.LivenessFailed {
			out = append(out, tr)
		}
	}
	return out
}

func TestR18CoordinatorStallBlamesNobody(t *testing.T) {
	if n := stallFailures(t, false); n != 0 {
		t.Errorf("%d live workers failed after the detector's own stall", n)
	}
	if n := stallFailures(t, true); n == 0 {
		t.Error("the check is blind: without compensation live workers must fail")
	}
}

// stallFailures stops the detector for 3 H in the middle of healthy beats and
// returns how many workers it declared failed after it ran again. A dead one must
// be found within 2 H of the resumption.
func stallFailures(t *testing.T, uncompensated bool) (n int) {
	t.Helper()
	m := New(core.DefaultTiming(testH))
	m.uncompensated = uncompensated
	m.Tick(0)
	for i := range 50 {
		m.Watch(0, ref(i, 1))
	}
	stop, resume := 5*testH, 8*testH
	deadFound := time.Duration(0)
	for now := m.Next(); now < 12*testH; now = max(m.Next(), now+1) {
		if now > stop && now < resume {
			now = resume
		}
		r := m.Tick(now)
		if now == resume && !uncompensated && (!r.Fresh || r.Stall < 2*testH) {
			t.Errorf("the stall went unnoticed: %v, fresh %v", r.Stall, r.Fresh)
		}
		for _, tr := range failed(r.Transitions) {
			if tr.Worker == ref(0, 1) {
				deadFound = now
				continue
			}
			n++
		}
		// The beats that piled up are handled only after the tick.
		for i := range 50 {
			if i > 0 || now < stop-testH/2 {
				m.Beat(now, ref(i, 1))
			}
		}
	}
	if !uncompensated && (deadFound < resume || deadFound > resume+2*testH) {
		t.Errorf("the dead worker was found at %v, resume was %v", deadFound, resume)
	}
	return n
}

func TestR20SuspendedMachine(t *testing.T) {
	m := New(core.DefaultTiming(testH))
	m.Tick(0)
	m.Watch(0, ref(1, 1))
	now := testH * 3 / 2
	for at := m.Next(); at < now; at = m.Next() {
		m.Tick(at)
	}
	if !m.Stall(now, time.Hour) {
		t.Fatal("an hour of suspension must give a fresh window")
	}
	if got := failed(run(m, now, now+testH)); len(got) != 0 {
		t.Errorf("failed %d inside the fresh window", len(got))
	}
	if got := failed(run(m, now+testH, now+2*testH)); len(got) != 1 {
		t.Error("a worker that stays silent must fail at the end of the fresh window")
	}
}

func BenchmarkBeat(b *testing.B) {
	m := New(core.DefaultTiming(5 * time.Second))
	const n = 10_000
	refs := make([]core.WorkerRef, n)
	for i := range refs {
		refs[i] = ref(i, 1)
		m.Watch(0, refs[i])
	}
	b.ReportAllocs()
	for i := range b.N {
		now := time.Duration(i) * time.Microsecond
		m.Beat(now, refs[i%n])
	}
}
