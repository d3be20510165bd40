package cloudlocal

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// killLedger is what the children said, over all rounds.
type killLedger struct {
	tried, put, acked, dead    map[string]bool
	got, failing, late, acking map[string]int // how often
	inFlight                   int            // leases that the kills ended
	acks                       int            // in this round
	least                      int            // acks in a round before its kill
	wrong                      []string
}

func newKillLedger() *killLedger {
	l := &killLedger{least: killMinAcks}
	for _, m := range []*map[string]bool{&l.tried, &l.put, &l.acked, &l.dead} {
		*m = map[string]bool{}
	}
	for _, m := range []*map[string]int{&l.got, &l.failing, &l.late, &l.acking} {
		*m = map[string]int{}
	}
	return l
}

func (l *killLedger) badf(format string, args ...any) {
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

func (l *killLedger) read(line string) {
	what, key, _ := strings.Cut(line, " ")
	switch what {
	case "put?":
		l.tried[key] = true
	case "put":
		l.put[key] = true
	case "got":
		l.got[key]++
	case "fail?":
		l.failing[key]++
	case "late":
		l.late[key]++
	case "ack?":
		l.acking[key]++
	case "ack":
		if l.acks++; l.acked[key] {
			l.badf("%s was finished twice", key)
		}
		l.acked[key] = true
	case "dead":
		l.dead[key] = true
	case "lost":
		l.badf("%s was taken from the owner of its lease", key)
	case "stale":
		l.badf("%s was finished after its lease had run out", key)
	case "released":
		n, err := strconv.Atoi(key)
		if err != nil {
			l.badf("a line reads %q", line)
		}
		l.inFlight += n
	default:
		l.badf("the child said %q", line)
	}
}

// round runs one child until a kill d after the least that makes it count.
func (l *killLedger) round(t *testing.T, task queueTask, d time.Duration) {
	t.Helper()
	p := startQueueChild(t, task)
	l.acks = 0
	var over chan struct{}
	for p.lines.Scan() {
		l.read(p.lines.Text())
		if over == nil && l.acks >= l.least {
			over = make(chan struct{})
			time.AfterFunc(d, func() {
				defer close(over)
				_ = p.cmd.Process.Kill() // it may have ended by itself, which is found below
			})
		}
	}
	if over == nil {
		_ = p.cmd.Process.Kill() // as above
	} else {
		<-over
	}
	_ = p.cmd.Wait() // it was killed
	if err := errors.Join(p.lines.Err(), p.pipe.Close()); err != nil {
		t.Fatal(err)
	}
	if over == nil {
		t.Fatalf("the child ended after %d acks: %v\n%s", l.acks, l.wrong, p.errs.String())
	}
}

// finish works off what is left, without kills, and compares the store with what
// was said.
func (l *killLedger) finish(t *testing.T, task queueTask) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	store, q, released, err := openKillQueue(ctx, task)
	if err != nil {
		t.Fatal(err)
	}
	l.inFlight += released
	for {
		s, err := q.Stats(ctx, "q")
		if err != nil {
			t.Fatal(err)
		}
		if s.Ready+s.Delayed+s.Leased == 0 {
			break
		}
		items, err := q.Dequeue(ctx, core.DequeueOptions{Queues: []string{"q"}, Owner: killOwner(0), Epoch: uint64(task.Round) + 1, MaxItems: 100, Wait: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		for _, it := range items {
			l.got[string(it.Payload)]++
			if err := l.workOff(ctx, q, it); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.compare(t, ctx, store, q)
	if err := errors.Join(q.Close(), store.Close()); err != nil {
		t.Fatal(err)
	}
}

func (l *killLedger) workOff(ctx context.Context, q *Queue, it core.LeasedItem) error {
	key := string(it.Payload)
	if poison(key) {
		l.failing[key]++
		_, err := core.NackOne(ctx, q, core.Nack{Lease: it.Lease, Kind: core.NackFailed, Retry: core.RetryHint{Kind: core.RetryNow}})
		return err
	}
	l.acking[key]++
	return core.AckOne(ctx, q, it.Lease, core.Write{Key: killResult(key, it.Lease), Value: []byte("done")})
}

// compare holds the store against the promises.
func (l *killLedger) compare(t *testing.T, ctx context.Context, store core.Storage, q *Queue) {
	finished := map[string]int{}
	for e, err := range store.Iterate(ctx, core.NewKey(core.NamespaceResults), core.ScanOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if finished[e.Key.Path[0]]++; string(e.Value) != "done" {
			l.badf("%s has a result of a lease that had run out", e.Key.Path[0])
		}
	}
	buried := map[string]bool{}
	var after core.ItemID
	for {
		page, err := q.Dead(ctx, "q", after, 1000)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, e := range page {
			after = e.ID
			key := string(e.Payload)
			buried[key] = true
			if e.Attempts != killAttempts || !poison(key) {
				l.badf("%s is dead after %d attempts", key, e.Attempts)
			}
		}
	}
	for key := range l.put {
		switch {
		case poison(key) && !buried[key]:
			l.badf("%s must be dead and is not", key)
		case !poison(key) && finished[key] == 0:
			l.badf("%s is lost", key)
		}
	}
	for key, n := range finished {
		if n != 1 || !l.tried[key] || buried[key] {
			l.badf("%s is finished %d times, enqueued: %v, dead: %v", key, n, l.tried[key], buried[key])
		}
	}
	for key := range l.acked {
		if finished[key] == 0 {
			l.badf("%s was acknowledged and is not finished", key)
		}
	}
	for key := range l.dead {
		if !buried[key] {
			l.badf("%s was reported dead and is not", key)
		}
	}
	duplicates := 0
	for key, n := range l.got {
		// A delivery ends with an ack, a failure or a late answer; any other one was
		// in flight at a kill.
		duplicates += max(0, n-1-l.failing[key]-l.late[key])
	}
	if duplicates > l.inFlight {
		l.badf("%d deliveries were repeated, and %d were in flight at the kills", duplicates, l.inFlight)
	}
	t.Logf("%d items, %d finished, %d dead; %d in flight at kills, %d repeated", len(l.tried), len(finished), len(buried), l.inFlight, duplicates)
}

func (l *killLedger) report(t *testing.T) {
	t.Helper()
	if n := len(l.wrong); n > 0 {
		t.Errorf("%d broken promises:\n%s", n, strings.Join(l.wrong[:min(n, 20)], "\n"))
	}
}

// TestR11QueueKilled kills a process with producers and consumers at random
// moments: nothing may be lost, finished twice, tried too often or too rarely, or
// finished under a lease that has run out.
func TestR11QueueKilled(t *testing.T) {
	path, l, rounds := killPath(t), newKillLedger(), chaosCount(t, 20)
	if rounds >= 100 {
		l.least = killManyAcks
	}
	for round := range rounds {
		l.round(t, queueTask{Path: path, Round: round}, time.Duration(rand.IntN(100))*time.Millisecond)
	}
	l.finish(t, queueTask{Path: path, Round: rounds})
	l.report(t)
}

// TestR11FindsUncheckedLeases shows that the harness above can fail.
func TestR11FindsUncheckedLeases(t *testing.T) {
	path, l := killPath(t), newKillLedger()
	for round := 0; round < 20 && len(l.wrong) == 0; round++ {
		l.round(t, queueTask{Path: path, Round: round, Bug: true}, 100*time.Millisecond)
	}
	if len(l.wrong) == 0 {
		t.Error("20 kills of a queue that checks no lease found nothing")
	}
}
