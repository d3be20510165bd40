//go:build failpoints

package storage

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// boltFailpoints are the marked places of bbolt that a commit passes and what
// happens there. Opening the file passes some of them too: from is how often a
// place is passed before the store is loaded.
var boltFailpoints = []struct {
	point, term  string
	from, spread int
}{
	{"beforeBucketPut", `panic`, 40, 400},
	{"beforeSyncDataPages", `panic`, 5, 40},
	{"beforeSyncDataPages", `sleep(30)`, 2, 1},
	{"beforeWriteMetaError", `return("planted")`, 5, 40},
	{"beforeSyncMetaPage", `panic`, 5, 40},
	{"beforeSyncMetaPage", `sleep(30)`, 2, 1},
	{"lackOfDiskSpace", `return("planted")`, 3, 2},
	{"resizeFileError", `return("planted")`, 1, 2},
	{"mapError", `return("planted")`, 2, 1},
	{"unmapError", `return("planted")`, 1, 1},
}

// TestBoltFailpoints lets bbolt fail at one place after the other, in a process
// with 64 writers. The binary is built by module failpoints.
func TestBoltFailpoints(t *testing.T) {
	rnd := rand.New(rand.NewPCG(chaosSeed(t), 6))
	for _, fp := range boltFailpoints {
		name := fp.point + " " + strings.SplitN(fp.term, "(", 2)[0]
		t.Run(name, func(t *testing.T) {
			fired := 0
			for round := range chaosCount(t, 1) {
				env := fmt.Sprintf("GOFAIL_FAILPOINTS=%s=%d*off->%s", fp.point, fp.from+rnd.IntN(fp.spread), fp.term)
				if failpointRound(t, env, round, strings.HasPrefix(fp.term, "sleep")) {
					fired++
				}
			}
			t.Logf("fired in %d rounds", fired)
			if fired == 0 {
				t.Error("the failpoint never fired")
			}
		})
	}
}

// failpointRound runs one child on a new store until it ends, or is killed where
// the failpoint only slows it down, and checks what it left. It reports whether the
// failpoint did anything.
func failpointRound(t *testing.T, env string, round int, slow bool) bool {
	t.Helper()
	l := newLedger(killWriters)
	path := filepath.Join(t.TempDir(), "failpoint.db")
	c := startChild(t, childSpec{Mode: "load", Path: path, Writers: killWriters, Ops: 60, Round: round}, nil, env)
	if slow {
		c.killAfter(time.Duration(300+round%100) * time.Millisecond)
	}
	opened := false
	for words := c.next(); words != nil; words = c.next() {
		opened = opened || words[0] == "ready"
		l.read(t, words)
	}
	status, output := c.wait()
	if c.failure != "" && opened {
		t.Errorf("%s: %s", env, c.failure)
	}
	if wrong := checkLoad(t, path, l); len(wrong) > 0 && opened {
		t.Logf("%s: %d acknowledged, status %d\n%s", env, l.acks, status, output)
		reportWrong(t, wrong)
	}
	if code, n := "unknown", l.codes["unknown"]; n > 0 {
		t.Errorf("%s: %d commits failed with code %s", env, n, code)
	}
	return slow || status != 0 || len(l.codes) > 0
}
