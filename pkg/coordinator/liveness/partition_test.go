package liveness

import (
	"container/heap"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// link is the network between one worker and the coordinator: each direction can
// be cut, and takes up to half an interval.
type link struct {
	rng               *rand.Rand
	requests, answers func(now time.Duration) bool // whether the direction is cut
}

// A partition of one of these kinds begins in each round.
var partitions = []struct {
	name              string
	requests, answers bool
	flap              time.Duration // 0: until the end
}{
	{"no requests", true, false, 0}, {"no answers", false, true, 0}, {"nothing", true, true, 0},
	{"flapping", true, true, testH * 3 / 10}, {"flapping answers", false, true, testH * 3 / 10},
}

// happening is one thing that will happen in a round.
type happening struct {
	at time.Duration
	do func()
}

type agenda []happening

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at < a[j].at }
func (a agenda) Swap(i, j int)      { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(x any)        { *a = append(*a, x.(happening)) }
func (a *agenda) Pop() any {
	old := *a
	x := old[len(old)-1]
	*a = old[:len(old)-1]
	return x
}

// round plays a worker that beats, tries again after 0.1 to 0.2 H, and fences itself
// SelfFence after the send of its last acknowledged beat, against a machine.
type round struct {
	link
	todo   agenda
	now    time.Duration
	timing core.Timing
	m      *Machine
	me     core.WorkerRef

	lease    time.Duration // when the worker's lease began
	byAnswer bool          // planted: the lease begins when the answer arrives
	acked    uint64
	sent     uint64
	fenced   time.Duration // 0: not yet
	failed   time.Duration // 0: not yet
}

func (r *round) in(d time.Duration, do func()) { heap.Push(&r.todo, happening{r.now + d, do}) }

// transit is how long a message takes: mostly little, at times half an interval.
func (r *round) transit() time.Duration {
	if r.rng.IntN(4) == 0 {
		return time.Duration(r.rng.Int64N(int64(testH / 2)))
	}
	return time.Duration(r.rng.Int64N(int64(testH / 50)))
}

func (r *round) send() {
	if r.fenced != 0 {
		return
	}
	r.sent++
	seq, at := r.sent, r.now
	if !r.requests(r.now) {
		r.in(r.transit(), func() { r.receive(seq, at) })
	}
	r.in(testH/10+time.Duration(r.rng.Int64N(int64(testH/10))), func() { // no answer yet: again
		if r.acked < seq && r.sent == seq {
			r.send()
		}
	})
}

func (r *round) receive(seq uint64, sentAt time.Duration) {
	if _, watched := r.m.Beat(r.now, r.me); !watched || r.answers(r.now) {
		return
	}
	r.in(r.transit(), func() {
		if r.fenced != 0 || seq <= r.acked {
			return
		}
		r.acked = seq
		begin := sentAt
		if r.byAnswer {
			begin = r.now
		}
		r.lease = max(r.lease, begin)
		r.watchLease()
		r.in(max(0, sentAt+testH-r.now), func() {
			if r.acked == seq {
				r.send()
			}
		})
	})
}

// watchLease fences the worker when its lease has run out by then.
func (r *round) watchLease() {
	r.in(r.lease+r.timing.SelfFence-r.now, func() {
		if r.fenced == 0 && r.now >= r.lease+r.timing.SelfFence {
			r.fenced = r.now
		}
	})
}

func (r *round) tick() {
	if len(failed(r.m.Tick(r.now).Transitions)) > 0 {
		r.failed = r.now
		return
	}
	r.in(max(r.m.Next()-r.now, 1), r.tick)
}

// playRound runs until the worker is declared failed, or 40 H have passed.
func playRound(seed uint64, byAnswer bool) *round {
	rng := rand.New(rand.NewPCG(seed, 16))
	kind := partitions[rng.IntN(len(partitions))]
	from := 3*testH + time.Duration(rng.Int64N(int64(2*testH)))
	cut := func(on bool) func(time.Duration) bool {
		return func(now time.Duration) bool {
			return on && now >= from && (kind.flap == 0 || (now-from)/kind.flap%2 == 0)
		}
	}
	timing := core.DefaultTiming(testH)
	r := &round{
		link: link{rng, cut(kind.requests), cut(kind.answers)}, timing: timing, m: New(timing), me: ref(1, 1), byAnswer: byAnswer,
	}
	r.m.Watch(0, r.me)
	r.watchLease()
	r.tick()
	r.send()
	for len(r.todo) > 0 && r.failed == 0 && r.now < 40*testH {
		h := heap.Pop(&r.todo).(happening)
		r.now = h.at
		h.do()
	}
	return r
}

// TestR16WorkerFencesFirst cuts the network in one or both directions, or lets it
// flap: the worker must have fenced itself 5 % of an interval before it is declared
// failed, and a worker whose lease begins with the answer must not pass.
func TestR16WorkerFencesFirst(t *testing.T) {
	rounds := chaosCount(t, 200)
	deaths := 0
	for seed := range rounds {
		r := playRound(uint64(seed), false)
		if r.failed == 0 {
			continue
		}
		deaths++
		if r.fenced == 0 || r.failed-r.fenced < testH/20 {
			t.Errorf("seed %d: fenced at %v, declared failed at %v", seed, r.fenced, r.failed)
		}
	}
	if deaths < rounds/3 {
		t.Errorf("only %d of %d rounds ended in a verdict, the run proves little", deaths, rounds)
	}
	blind := true
	for seed := range 200 {
		r := playRound(uint64(seed), true)
		blind = blind && (r.failed == 0 || r.fenced != 0 && r.failed-r.fenced >= testH/20)
	}
	if blind {
		t.Error("the check is blind: a lease that begins with the answer was not noticed")
	}
	t.Logf("%d rounds, %d verdicts, each at least 5 %% of an interval after the worker had fenced itself", rounds, deaths)
}
