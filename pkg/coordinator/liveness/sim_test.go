package liveness

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// sim is one random life of many workers against one machine, in virtual time
// that advances in steps of H/64.
type sim struct {
	rng     *rand.Rand
	m       *Machine
	h, step time.Duration
	workers []simWorker
	due     [][]int // workers whose next send falls into a step, a ring
	stops   []stop  // when the coordinator does not run

	transitions []Transition
	found       map[int]time.Duration
	falseDeaths int
	lost        int
}

type stop struct{ from, to time.Duration }

type simWorker struct {
	dead   bool
	diedAt time.Duration
	tries  int // lost beats in a row
}

func newSim(seed uint64, n int) *sim {
	h := testH
	s := &sim{
		rng: rand.New(rand.NewPCG(seed, 13)), m: New(core.DefaultTiming(h)),
		h: h, step: h / 64, workers: make([]simWorker, n),
		due: make([][]int, 256), found: make(map[int]time.Duration),
	}
	s.m.Tick(0)
	for i := range s.workers {
		s.m.Watch(0, ref(i, 1))
		s.sendAt(i, 0, time.Duration(s.rng.Int64N(int64(h))))
	}
	at := 3 * h
	for range s.rng.IntN(3) {
		at += time.Duration(s.rng.Int64N(int64(4 * h)))
		d := time.Duration(s.rng.Int64N(int64(3 * h)))
		s.stops = append(s.stops, stop{at, at + d})
		at += d + 3*h
	}
	return s
}

func (s *sim) sendAt(i int, now, in time.Duration) {
	slot := int((now+in)/s.step+1) % len(s.due)
	s.due[slot] = append(s.due[slot], i)
}

func (s *sim) stopped(now time.Duration) bool {
	for _, p := range s.stops {
		if now >= p.from && now < p.to {
			return true
		}
	}
	return false
}

// run kills 30 % of the workers at random times between 2 H and 6 H and goes on
// until every window has passed.
func (s *sim) run() {
	end := 24 * s.h
	kill := make(map[time.Duration][]int)
	for i := range s.workers {
		if s.rng.IntN(10) < 3 {
			at := 2*s.h + time.Duration(s.rng.Int64N(int64(4*s.h)))
			kill[at/s.step] = append(kill[at/s.step], i)
		}
	}
	var waiting []int // beats that reached a stopped coordinator
	for now := s.step; now < end; now += s.step {
		for _, i := range kill[now/s.step] {
			s.workers[i].dead, s.workers[i].diedAt = true, now
		}
		stopped := s.stopped(now)
		if !stopped {
			s.tick(now)
			for _, i := range waiting {
				s.m.Beat(now, ref(i, 1))
			}
			waiting = waiting[:0]
		}
		slot := int(now/s.step) % len(s.due)
		beats := s.due[slot]
		s.due[slot] = nil
		for _, i := range beats {
			if s.workers[i].dead {
				continue
			}
			if arrived := s.beat(i, now); arrived && stopped {
				waiting = append(waiting, i)
			} else if arrived {
				s.m.Beat(now, ref(i, 1))
			}
		}
	}
}

// beat sends one beat and plans the next: a lost one is tried again after 0.1 to
// 0.2 H, as the worker does inside its window. It reports whether it arrives.
func (s *sim) beat(i int, now time.Duration) bool {
	w := &s.workers[i]
	if s.rng.IntN(100) == 0 && w.tries < 2 {
		w.tries++
		s.lost++
		s.sendAt(i, now, s.h/10+time.Duration(s.rng.Int64N(int64(s.h/10))))
		return false
	}
	w.tries = 0
	s.sendAt(i, now, s.h-time.Duration(s.rng.Int64N(int64(s.h/10))))
	return true
}

func (s *sim) tick(now time.Duration) {
	if now < s.m.Next() {
		return
	}
	for _, tr := range s.m.Tick(now).Transitions {
		s.transitions = append(s.transitions, tr)
		if tr.To != core.LivenessFailed {
			continue
		}
		i := int(tr.Worker.ID[15]) | int(tr.Worker.ID[14])<<8
		if !s.workers[i].dead {
			s.falseDeaths++
		}
		if _, twice := s.found[i]; twice {
			s.falseDeaths++
		}
		s.found[i] = now
	}
}

// late returns how far beyond the promise a death was noticed: 2 H of running
// time, or 2 H from the last resumption that gave a fresh window.
func (s *sim) late(i int) time.Duration {
	died, found := s.workers[i].diedAt, s.found[i]
	limit := died + 2*s.h
	for _, p := range s.stops {
		if p.to > died && p.from < found {
			limit += p.to - max(p.from, died)
			limit = max(limit, p.to+2*s.h+s.step)
		}
	}
	return found - limit
}

func (s *sim) check() error {
	if s.falseDeaths > 0 {
		return fmt.Errorf("%d false or repeated deaths", s.falseDeaths)
	}
	if s.lost == 0 {
		return fmt.Errorf("no beat was lost, the run proves nothing")
	}
	for i, w := range s.workers {
		if _, ok := s.found[i]; w.dead && !ok {
			return fmt.Errorf("worker %d died at %v and was never found", i, w.diedAt)
		}
		if w.dead && s.late(i) > 0 {
			return fmt.Errorf("worker %d died at %v and was found at %v, %v late (stalls %v)", i, w.diedAt, s.found[i], s.late(i), s.stops)
		}
	}
	return nil
}

func chaosCount(t testing.TB, otherwise int) int {
	t.Helper()
	v := os.Getenv("ROLLOUT_CHAOS_COUNT")
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 {
		t.Fatalf("ROLLOUT_CHAOS_COUNT=%q is not a positive number", v)
	}
	return n
}

// TestR13Detection runs 10,000 workers for each seed; under the race detector
// every tenth seed has so many and the others 1,000.
func TestR13Detection(t *testing.T) {
	seeds := chaosCount(t, 50)
	deaths, lost := 0, 0
	for seed := range seeds {
		workers := 10_000
		if raceEnabled && seed%10 != 0 {
			workers = 1000
		}
		s := newSim(uint64(seed), workers)
		s.run()
		if err := s.check(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		deaths += len(s.found)
		lost += s.lost
	}
	t.Logf("%d seeds: %d deaths, all found within 2 H, 0 false; %d beats lost", seeds, deaths, lost)
}

// TestR13ReplaysExactly proves that a seed gives the same transitions twice.
func TestR13ReplaysExactly(t *testing.T) {
	a, b := newSim(7, 500), newSim(7, 500)
	a.run()
	b.run()
	if len(a.transitions) == 0 || !slices.Equal(a.transitions, b.transitions) {
		t.Errorf("two runs of one seed differ: %d and %d transitions", len(a.transitions), len(b.transitions))
	}
}

// TestR13SeesAPlantedFault turns the compensation off: some seed must then
// declare a live worker failed, or the simulation could not see it.
func TestR13SeesAPlantedFault(t *testing.T) {
	for seed := range 20 {
		s := newSim(uint64(seed), 500)
		s.m.uncompensated = true
		s.run()
		if s.falseDeaths > 0 {
			return
		}
	}
	t.Error("20 seeds without stall compensation gave no false death")
}
