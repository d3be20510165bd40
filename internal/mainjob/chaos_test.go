package mainjob

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// chaosRuns is how many runs a test makes where no count is given.
const chaosRuns = 5

// faults is how many hits a run takes at least while its jobs are under way; twice as
// many are dealt at most, so that a job comes to its end.
const faults = 4

func runs(t *testing.T) int {
	t.Helper()
	n, err := strconv.Atoi(os.Getenv("ROLLOUT_CHAOS_COUNT"))
	if err != nil {
		return chaosRuns
	}
	return n
}

// TestR11WorkUnderChaos scores the completions while workers, their plugins and the
// coordinator are killed, stopped and restarted at random: nothing is lost, nothing
// comes twice, nothing is committed under a lease that was lost.
func TestR11WorkUnderChaos(t *testing.T) {
	in := completions(t)
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("ROLLOUT_CHAOS_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("ROLLOUT_CHAOS_SEED=%d", seed)
	for run := range runs(t) {
		rnd := rand.New(rand.NewPCG(seed, uint64(run)))
		protocol := []string{"h2", "quic"}[run%2]
		t.Run(strconv.Itoa(run)+protocol, func(t *testing.T) {
			c := newCluster(t, protocol, 2+rnd.IntN(2), "gsm8k-reward")
			// A quick machine is through before much has happened: it scores again.
			for pass, hits := 0, 0; hits < faults; pass++ {
				s := c.submit(in, "gsm8k-reward", "out"+strconv.Itoa(pass), "--max-attempts", "1000", "--max-losses", "1000")
				for hits < 2*faults {
					pause := time.NewTimer(time.Duration(50+rnd.IntN(400)) * time.Millisecond)
					<-pause.C
					if len(s.done) > 0 {
						break
					}
					t.Log(c.hit(rnd))
					hits++
				}
				for _, w := range c.work {
					w.signal(syscall.SIGCONT)
				}
				c.wait(s, in)
			}
		})
	}
}

// hit does something bad and says what.
func (c *cluster) hit(rnd *rand.Rand) string {
	w := c.work[rnd.IntN(len(c.work))]
	switch rnd.IntN(6) {
	case 0, 1:
		w.signal(syscall.SIGCONT)
		w.signal(syscall.SIGKILL)
		return "killed " + w.name
	case 2:
		w.signal(syscall.SIGSTOP)
		d := time.Duration(100+rnd.IntN(1200)) * time.Millisecond
		time.AfterFunc(d, func() { w.signal(syscall.SIGCONT) })
		return "stopped " + w.name + " for " + d.String()
	case 3:
		c.coord.signal(syscall.SIGKILL)
		return "killed the coordinator"
	case 4:
		c.coord.signal(syscall.SIGTERM)
		return "restarted the coordinator"
	}
	n := killSidecars(w)
	return "killed " + strconv.Itoa(n) + " plugin processes of " + w.name
}

// killSidecars kills the Python processes below a worker and returns how many.
func killSidecars(w *service) int {
	w.mu.Lock()
	root := w.cmd.Process.Pid
	w.mu.Unlock()
	parents := map[int]int{}
	python := map[int]bool{}
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0
	}
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(d, "stat"))
		if err != nil {
			continue // it ended meanwhile
		}
		open, shut := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
		fields := strings.Fields(string(stat[shut+1:]))
		ppid, err := strconv.Atoi(fields[1])
		if err != nil {
			continue
		}
		parents[pid] = ppid
		python[pid] = strings.HasPrefix(string(stat[open+1:shut]), "python")
	}
	n := 0
	for pid := range python {
		if !python[pid] {
			continue
		}
		for p := pid; p > 1; p = parents[p] {
			if p == root {
				if syscall.Kill(pid, syscall.SIGKILL) == nil {
					n++
				}
				break
			}
		}
	}
	return n
}
