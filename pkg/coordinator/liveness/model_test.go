package liveness

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// model says the rules of the package comment in the plainest way: it looks at
// every worker on every tick and keeps no heap.
type model struct {
	t       core.Timing
	workers map[core.WorkerID]*modelWorker
	due     time.Duration // when the next tick was promised
	ticked  bool
}

type modelWorker struct {
	ref                 core.WorkerRef
	suspect             bool
	base, window, short time.Duration
	heldSince           time.Duration
	holds               int
}

func (w *modelWorker) deadline() time.Duration { return w.base + w.window }

func (md *model) suspectLead() time.Duration { // how long before its deadline a worker is suspect
	h := md.t.HeartbeatInterval
	return md.t.Failure - min(h+h/4, h+(md.t.Failure-h)/2)
}

func (md *model) stall(now, d time.Duration) {
	for _, w := range md.workers {
		if d >= md.t.SelfFence-md.t.HeartbeatInterval {
			w.base, w.short = now, 0
			continue
		}
		grant := min(d, md.t.Failure-w.short)
		w.short += grant
		w.base = min(now, w.base+grant)
	}
}

// tick returns who became suspect and who failed, sorted by id.
func (md *model) tick(now time.Duration) (out []Transition) {
	h := md.t.HeartbeatInterval
	if md.ticked && now > md.due+h/16 {
		md.stall(now, now-md.due)
	}
	md.ticked = true
	for id, w := range md.workers {
		switch {
		case w.holds > 0:
		case w.deadline() <= now:
			out = append(out, Transition{Worker: w.ref, To: core.LivenessFailed})
			delete(md.workers, id)
		case !w.suspect && w.deadline()-md.suspectLead() <= now:
			out = append(out, Transition{Worker: w.ref, To: core.LivenessSuspect})
			w.suspect = true
		}
	}
	return out
}

// next returns when the next thing can happen, which is the latest time that the
// machine may ask to be called again.
func (md *model) next(now time.Duration) time.Duration {
	at := now + md.t.HeartbeatInterval/16
	for _, w := range md.workers {
		switch {
		case w.holds > 0:
		case w.suspect:
			at = min(at, w.deadline())
		default:
			at = min(at, w.deadline()-md.suspectLead())
		}
	}
	return at
}

func brief(trs []Transition) []Transition {
	out := make([]Transition, 0, len(trs))
	for _, tr := range trs {
		out = append(out, Transition{Worker: tr.Worker, To: tr.To})
	}
	slices.SortFunc(out, func(a, b Transition) int {
		return cmp.Or(slices.Compare(a.Worker.ID[:], b.Worker.ID[:]), cmp.Compare(a.To, b.To))
	})
	return out
}

// modelRun applies one random history to the machine and the model.
type modelRun struct {
	rt     *rapid.T
	m      *Machine
	md     *model
	now    time.Duration
	epochs map[core.WorkerID]uint64
	failed map[core.WorkerRef]bool
}

func TestMachineMatchesModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		timing := core.DefaultTiming(testH)
		if rapid.Bool().Draw(rt, "original's timing") {
			timing.SelfFence, timing.Failure = 8*testH, 10*testH
		}
		r := &modelRun{
			rt: rt, m: New(timing), md: &model{t: timing, workers: map[core.WorkerID]*modelWorker{}},
			epochs: map[core.WorkerID]uint64{}, failed: map[core.WorkerRef]bool{},
		}
		r.restore(rapid.IntRange(0, 5).Draw(rt, "restored"))
		rt.Repeat(map[string]func(*rapid.T){
			"tick": func(*rapid.T) { r.tick() }, "wait": func(*rapid.T) { r.wait() },
			"watch": func(*rapid.T) { r.watch() }, "beat": func(*rapid.T) { r.beat() },
			"disconnect": func(*rapid.T) { r.disconnect() }, "forget": func(*rapid.T) { r.forget() },
			"hold": func(*rapid.T) { r.hold() }, "release": func(*rapid.T) { r.release() },
			"": func(*rapid.T) { r.invariant() },
		})
	})
}

func (r *modelRun) pick() core.WorkerID { return ref(rapid.IntRange(0, 7).Draw(r.rt, "worker"), 0).ID }

func (r *modelRun) restore(n int) {
	var ws []Restored
	for i := range n {
		w := ref(i, 1)
		r.epochs[w.ID] = 1
		ws = append(ws, Restored{Ref: w, Suspect: i%2 == 1})
		window := max(2*r.md.t.HeartbeatInterval+time.Duration(n)*RestoreAllowance, r.md.t.Failure)
		r.md.workers[w.ID] = &modelWorker{ref: w, suspect: i%2 == 1, window: window}
	}
	r.m.Restore(0, ws)
	r.tickAt(0)
}

func (r *modelRun) tickAt(now time.Duration) {
	r.now = now
	got, want := brief(r.m.Tick(now).Transitions), brief(r.md.tick(now))
	if !slices.Equal(got, want) {
		r.rt.Fatalf("at %v the machine says %+v, the rules say %+v", now, got, want)
	}
	for _, tr := range failed(got) {
		if r.failed[tr.Worker] {
			r.rt.Fatalf("%+v failed twice", tr.Worker)
		}
		r.failed[tr.Worker] = true
	}
	// The machine may ask earlier than the rules need, because it repairs its
	// checks lazily, but never later.
	if r.m.Next() > r.md.next(now) || r.m.Next() <= now {
		r.rt.Fatalf("at %v the next tick is promised for %v, something happens at %v", now, r.m.Next(), r.md.next(now))
	}
	r.md.due = r.m.Next()
}

// tick keeps the promise of Next for a while.
func (r *modelRun) tick() {
	for range rapid.IntRange(1, 12).Draw(r.rt, "ticks") {
		r.tickAt(max(r.m.Next(), r.now))
	}
}

// wait comes late, a little or by far.
func (r *modelRun) wait() {
	late := time.Duration(rapid.Int64Range(0, int64(4*testH)).Draw(r.rt, "late"))
	if rapid.Bool().Draw(r.rt, "little") {
		late /= 40
	}
	r.tickAt(max(r.m.Next(), r.now) + late)
}

func (r *modelRun) watch() {
	id := r.pick()
	r.epochs[id]++
	w := core.WorkerRef{ID: id, Epoch: r.epochs[id]}
	r.m.Watch(r.now, w)
	r.md.workers[id] = &modelWorker{ref: w, base: r.now, window: r.md.t.Failure}
}

func (r *modelRun) beat() {
	id := r.pick()
	w := core.WorkerRef{ID: id, Epoch: r.epochs[id]}
	if rapid.IntRange(0, 9).Draw(r.rt, "old") == 0 && w.Epoch > 0 {
		w.Epoch--
	}
	tr, watched := r.m.Beat(r.now, w)
	mw := r.md.workers[id]
	known := mw != nil && mw.ref == w
	if watched != known {
		r.rt.Fatalf("beat of %+v accepted: %v, the rules say %v", w, watched, known)
	}
	if !known {
		return
	}
	if tr.Changed() != mw.suspect {
		r.rt.Fatalf("beat of a suspect (%v) gave %+v", mw.suspect, tr)
	}
	mw.base, mw.window, mw.short, mw.suspect = r.now, r.md.t.Failure, 0, false
}

func (r *modelRun) disconnect() {
	mw := r.md.workers[r.pick()]
	if mw == nil {
		return
	}
	tr := r.m.Disconnect(r.now, mw.ref, "broken")
	if tr.Changed() == mw.suspect {
		r.rt.Fatalf("disconnect of a suspect (%v) gave %+v", mw.suspect, tr)
	}
	mw.suspect = true
}

func (r *modelRun) forget() {
	id := r.pick()
	r.m.Forget(id)
	delete(r.md.workers, id)
}

func (r *modelRun) hold() {
	id := r.pick()
	mw := r.md.workers[id]
	if r.m.Hold(r.now, id) != (mw != nil) {
		r.rt.Fatalf("hold of %v: the machine and the rules differ on whether it is watched", id)
	}
	if mw != nil {
		if mw.holds++; mw.holds == 1 {
			mw.heldSince = r.now
		}
	}
}

func (r *modelRun) release() {
	mw := r.md.workers[r.pick()]
	if mw == nil || mw.holds == 0 {
		return
	}
	r.m.Release(r.now, mw.ref)
	if mw.holds--; mw.holds == 0 {
		mw.base = min(r.now, mw.base+r.now-mw.heldSince)
	}
}

func (r *modelRun) invariant() {
	if r.m.Watched() != len(r.md.workers) {
		r.rt.Fatalf("%d watched, the rules say %d", r.m.Watched(), len(r.md.workers))
	}
}
