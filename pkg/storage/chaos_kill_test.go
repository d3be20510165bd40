//go:build linux

package storage

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const killWriters = 64

// killRounds runs rounds of the load on one store, each ended by SIGKILL at a
// random moment, and returns the broken promises of the first round that has any.
type killRounds struct {
	rounds  int
	bug     string
	minAcks int // acknowledgements that a round must see before the kill counts
}

func (k killRounds) run(t *testing.T) (wrong []string) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(chaosSeed(t), 1))
	path := filepath.Join(t.TempDir(), "kill.db")
	l := newLedger(killWriters)
	acks, slowest := 0, time.Duration(0)
	for round := range k.rounds {
		l.newRound()
		c := startChild(t, childSpec{Mode: "load", Path: path, Writers: killWriters, Round: round, Bug: k.bug}, nil)
		k.loadAndKill(t, c, l, time.Duration(20+rnd.IntN(150))*time.Millisecond)
		acks += l.acks
		began := time.Now()
		wrong = checkLoad(t, path, l)
		slowest = max(slowest, time.Since(began))
		if len(wrong) > 0 {
			t.Logf("round %d", round)
			break
		}
	}
	t.Logf("%d acknowledged transactions; slowest restart to a checked store %v", acks, slowest)
	return wrong
}

// loadAndKill feeds the child's lines to the ledger and kills it d after it has
// acknowledged the least that makes a round count.
func (k killRounds) loadAndKill(t *testing.T, c *child, l *ledger, d time.Duration) {
	t.Helper()
	armed := false
	for words := c.next(); words != nil; words = c.next() {
		l.read(t, words)
		if !armed && l.acks >= k.minAcks {
			armed = true
			c.killAfter(d)
		}
	}
	c.kill()
	if !armed || c.failure != "" {
		t.Fatalf("the writer ended by itself after %d acknowledgements: %s\n%s", l.acks, c.failure, c.printed())
	}
	if status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		t.Fatalf("the writer ended by itself: %v\n%s", c.cmd.ProcessState, c.printed())
	}
}

// checkLoad opens the store as a restarted process does and compares it with the
// ledger.
func checkLoad(t testing.TB, path string, l *ledger) []string {
	t.Helper()
	store, err := openHooked(context.Background(), path, hooks{})
	if err != nil {
		return []string{"the store does not open again: " + err.Error()}
	}
	wrong := l.check(context.Background(), store)
	if err := store.Close(); err != nil {
		wrong = append(wrong, "close: "+err.Error())
	}
	return wrong
}

func reportWrong(t testing.TB, wrong []string) {
	t.Helper()
	if len(wrong) > 0 {
		t.Errorf("%d broken promises:\n%s", len(wrong), strings.Join(wrong[:min(len(wrong), 20)], "\n"))
	}
}

// TestR1CoordinatorKilled kills a process with 64 writers at random moments:
// nothing acknowledged may be lost, no transaction may be kept in part, the
// revision may not go back, and no watcher may have seen what was not kept.
func TestR1CoordinatorKilled(t *testing.T) {
	t.Parallel()
	reportWrong(t, killRounds{rounds: chaosCount(t, 60), minAcks: killWriters}.run(t))
}

// TestR1FindsAcknowledgementBeforeCommit shows that the harness above can fail.
func TestR1FindsAcknowledgementBeforeCommit(t *testing.T) {
	wrong := killRounds{rounds: 200, minAcks: killWriters, bug: "ack early"}.run(t)
	if !mentions(wrong, "lost") {
		t.Errorf("200 kills of a store that acknowledges before it commits found only %q", wrong)
	}
}

// TestR1FindsEventBeforeCommit shows the same for what watchers see.
func TestR1FindsEventBeforeCommit(t *testing.T) {
	wrong := killRounds{rounds: 200, minAcks: killWriters, bug: "publish early"}.run(t)
	if !mentions(wrong, "a watcher saw") {
		t.Errorf("200 kills of a store that publishes before it commits found only %q", wrong)
	}
}

// TestR1IsBlindToMissingSync records why power cuts are tried as well: what a
// killed process wrote is in the kernel, synced or not.
func TestR1IsBlindToMissingSync(t *testing.T) {
	reportWrong(t, killRounds{rounds: 3, minAcks: killWriters, bug: "no sync"}.run(t))
}

func mentions(wrong []string, what string) bool {
	for _, w := range wrong {
		if strings.Contains(w, what) {
			return true
		}
	}
	return false
}

// dieAt returns a hook that kills its own process at the n-th passing of a point.
func dieAt(at hookPoint, n int) func(hookPoint) {
	passed := 0
	return func(point hookPoint) {
		if point != at {
			return
		}
		if passed++; passed < n {
			return
		}
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			os.Exit(5)
		}
		select {} // the signal is on its way; nothing after the point may run
	}
}

// TestR5StoppedInsideCommit kills the process at each place inside a commit.
func TestR5StoppedInsideCommit(t *testing.T) {
	rounds := chaosCount(t, 1)
	for _, point := range []hookPoint{hookStaged, hookDurable, hookPublished} {
		t.Run(string(point), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "stop.db")
			l := newLedger(killWriters)
			for round := range rounds {
				l.newRound()
				c := startChild(t, childSpec{Mode: "load", Path: path, Writers: killWriters, Round: round,
					Stop: string(point), StopAt: 1 + round%7}, nil)
				for words := c.next(); words != nil; words = c.next() {
					l.read(t, words)
				}
				c.kill()
				if c.failure != "" {
					t.Fatal(c.failure)
				}
				reportWrong(t, checkLoad(t, path, l))
			}
		})
	}
}
