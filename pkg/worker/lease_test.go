package worker

import (
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func at(d time.Duration) instant { return instant{at: time.Unix(1000, 0).Add(d)} }

func TestALeaseCountsFromTheSendOfTheLastAcknowledgedBeat(t *testing.T) {
	l := newLease(at(0), 100)
	l.sent(1, at(10))
	l.sent(2, at(60))
	if !l.acked(1, at(90)) || l.left(at(90)) != 20 {
		t.Errorf("after beat 1 the lease runs for %v", l.left(at(90)))
	}
	if !l.acked(2, at(95)) || l.left(at(95)) != 65 {
		t.Errorf("after beat 2 the lease runs for %v", l.left(at(95)))
	}
	if !l.acked(1, at(96)) || l.left(at(96)) != 64 {
		t.Error("an answer that was overtaken moves the lease back")
	}
	l.sent(3, at(150))
	if l.acked(3, at(160)) || l.holds(at(100)) || l.left(at(0)) != 0 {
		t.Error("a lease that has run out comes back")
	}
}

func TestALeaseIsProvenByABeatOnly(t *testing.T) {
	l := newLease(at(0), 100)
	if l.provenAt(at(1)) || !l.holds(at(1)) {
		t.Error("a registration proves the lease")
	}
	l.acked(9, at(2))
	if l.provenAt(at(2)) {
		t.Error("an answer to a beat that was not sent proves the lease")
	}
	l.sent(1, at(3))
	if l.acked(1, at(4)); !l.provenAt(at(4)) || l.provenAt(at(104)) {
		t.Error("an acknowledged beat does not prove the lease for its time")
	}
}

// A sleeping machine counts; a wall clock that was set does not.
func TestOnlyTimeThatPassedCounts(t *testing.T) {
	start := readClock()
	if !strings.Contains(start.at.String(), " m=") {
		t.Error("the clock is read without its monotonic part, so setting the wall clock moves leases")
	}
	if runtime.GOOS == "linux" && start.boot == 0 {
		t.Error("the clock that counts a machine's sleep is not read")
	}
	start.boot = time.Hour
	for name, c := range map[string]struct {
		at, boot time.Duration
		holds    bool
	}{
		"a second later":         {time.Second, time.Second, true},
		"a second and a sleep":   {time.Second, 2 * time.Hour, false},
		"too late on both":       {2 * time.Hour, 2 * time.Hour, false},
		"too late, boot unknown": {2 * time.Hour, -start.boot, false},
		"in time, boot unknown":  {time.Second, -start.boot, true},
	} {
		l := newLease(start, time.Hour)
		if got := l.holds(instant{at: start.at.Add(c.at), boot: start.boot + c.boot}); got != c.holds {
			t.Errorf("%s: the lease holds is %v", name, got)
		}
	}
}

func TestOutstandingBeatsAreBounded(t *testing.T) {
	l := newLease(at(0), time.Hour)
	for seq := uint64(1); seq < 10000; seq++ {
		l.sent(seq, at(time.Duration(seq)))
	}
	if n := len(l.pending); n > maxOutstanding+1 {
		t.Errorf("%d beats are remembered", n)
	}
}

// rounds returns how many rounds a fault test runs.
func rounds(t *testing.T, small int) int {
	text := os.Getenv("ROLLOUT_CHAOS_COUNT")
	if text == "" {
		return small
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("ROLLOUT_CHAOS_COUNT: %v", err)
	}
	return n
}

// partition is one fault of the network.
type partition struct {
	name     string
	up, down bool
	flap     time.Duration // 0: the cut stays
}

// fencesInTime cuts a worker off and reports how long before its declaration it had
// fenced. It reports false when it was never declared. // synctest
func fencesInTime(t *testing.T, f *fakeCoordinator, seed uint64, p partition, plant func(*rig)) (margin time.Duration, declared bool) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	delays := rand.New(rand.NewPCG(seed, 2)) // used under the fake's mutex
	f.upDelay = func() time.Duration { return time.Duration(delays.Int64N(int64(testH / 20))) }
	// Answers may be so late that a lease counted from their receipt is too long.
	f.downDelay = func() time.Duration { return time.Duration(delays.Int64N(int64(testH * 9 / 20))) }
	r := prepare(t, f, func(c *Config) { c.Logger = nil })
	if plant != nil {
		plant(r)
	}
	r.run()
	f.until(f.isReady)
	time.Sleep(time.Duration(rnd.Int64N(int64(3 * testH)))) // synctest
	for i := 0; i < 20; i++ {
		f.set(func() { f.upCut, f.downCut = p.up, p.down })
		if p.flap == 0 {
			time.Sleep(4 * testH) // synctest
			break
		}
		time.Sleep(p.flap) // synctest
		f.set(func() { f.upCut, f.downCut = false, false })
		time.Sleep(p.flap) // synctest
	}
	// What the coordinator would have said at its first look, against when the worker
	// had stopped for that epoch.
	f.mu.Lock()
	due, judged := f.lastReceipt.Add(f.timing.Failure), f.worker == 1
	f.mu.Unlock()
	fenced := r.events.topic(core.TopicWorkerFenced)
	f.set(func() { f.upCut, f.downCut = false, false })
	if err := r.leaveNow(); err != nil {
		t.Errorf("seed %d, %s: %v", seed, p.name, err)
	}
	switch {
	case !judged, time.Now().Before(due):
		return 0, false
	case len(fenced) == 0:
		return -time.Hour, true
	}
	return due.Sub(fenced[0].Time), true
}

func partitions() []partition {
	return []partition{
		{name: "full", up: true, down: true},
		{name: "beats are lost", up: true},
		{name: "answers are lost", down: true},
		{name: "flapping", up: true, down: true, flap: 3 * testH / 10},
	}
}

// A worker that counts from the receipt of an answer instead must be caught, or the
// test above proves nothing.
func TestALeaseCountedFromReceiptsIsCaught(t *testing.T) {
	caught := false
	for seed := uint64(0); seed < 40 && !caught; seed++ {
		synctest.Test(t, func(t *testing.T) {
			f := newFake()
			margin, declared := fencesInTime(t, f, seed, partitions()[0], func(r *rig) {
				f.onAnswer = func(seq uint64) {
					if e := r.current.Load(); e != nil {
						e.lease.sent(seq, r.clock()) // as if it had been sent now
					}
				}
			})
			caught = declared && margin < testH/20
		})
	}
	if !caught {
		t.Error("no partition shows that the lease counts from receipts")
	}
}

func TestR16PartitionsFenceBeforeTheCoordinatorActs(t *testing.T) {
	for round := range rounds(t, 25) {
		counted := 0
		for _, p := range partitions() {
			synctest.Test(t, func(t *testing.T) {
				margin, declared := fencesInTime(t, newFake(), uint64(round), p, nil)
				if declared {
					counted++
				}
				if declared && margin < testH/20 {
					t.Errorf("round %d, %s: fenced %v before the coordinator could act, at least %v is needed", round, p.name, margin, testH/20)
				}
			})
		}
		if counted == 0 {
			t.Errorf("round %d: no partition was long enough to count", round)
		}
	}
}
