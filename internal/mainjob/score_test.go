package mainjob

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// input is a file of completions with what is known of it.
type input struct {
	path   string
	ids    []string
	models []string
	solved map[string]int // right answers by model
}

// realData is where a checkout that comes with the real completions has them.
const realData = "../../../shared/data/gsm8k/rollouts.jsonl"

// completions returns the real completions where they are, else the sample, repeated
// with ids of its own until there is enough to kill something in the middle of.
func completions(t testing.TB) input {
	t.Helper()
	in := input{path: realData, solved: map[string]int{"6b_finetuning": 286, "6b_verification": 515, "175b_finetuning": 458, "175b_verification": 742}}
	if _, err := os.Stat(realData); err != nil {
		const copies = 60
		in.path = filepath.Join(t.TempDir(), "sample.jsonl")
		in.solved = map[string]int{"sketch": 4 * copies, "sketch_checked": 8 * copies, "tuned": 10 * copies, "tuned_checked": 14 * copies}
		repeatSample(t, in.path, copies)
	}
	eachLine(t, in.path, func(line []byte) {
		var l struct{ ID, Model string }
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatal(err)
		}
		in.ids, in.models = append(in.ids, l.ID), append(in.models, l.Model)
	})
	return in
}

func repeatSample(t testing.TB, path string, copies int) {
	t.Helper()
	var out bytes.Buffer
	for k := range copies {
		eachLine(t, "../../examples/gsm8k-reward/sample.jsonl", func(line []byte) {
			out.Write(bytes.Replace(line, []byte(`"id": "`), fmt.Appendf(nil, `"id": "%d-`, k), 1))
			out.WriteByte('\n')
		})
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func eachLine(t testing.TB, path string, each func([]byte)) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 32<<20)
	for sc.Scan() {
		each(sc.Bytes())
	}
	if err := sc.Err(); err != nil {
		t.Fatal(err)
	}
}

// submission is a running `rollout submit --wait`.
type submission struct {
	out  string
	done chan error
}

func (c *cluster) submit(in input, plugin, name string, more ...string) *submission {
	s := &submission{out: c.path(name + ".jsonl"), done: make(chan error, 1)}
	args := append([]string{"submit", "--plugin", plugin, "--method", "score", "--input", in.path, "--wait", "--output", s.out}, more...)
	go func() {
		_, err := c.tool(nil, args...)
		s.done <- err
	}()
	return s
}

// wait waits for the submission and holds its output against the input: one line for
// each line, in order, once, all ok, with the known number of right answers.
func (c *cluster) wait(s *submission, in input) {
	c.t.Helper()
	select {
	case err := <-s.done:
		if err != nil {
			c.t.Fatal(err)
		}
	case <-time.After(patience):
		c.t.Fatal("the job did not end")
	}
	solved := map[string]int{}
	n := 0
	eachLine(c.t, s.out, func(line []byte) {
		var r struct {
			ID     string
			Index  int
			Status string
			Result struct{ Reward float64 }
		}
		if err := json.Unmarshal(line, &r); err != nil {
			c.t.Fatal(err)
		}
		if n >= len(in.ids) || r.Index != n || r.ID != in.ids[n] || r.Status != "ok" {
			c.t.Fatalf("line %d of the output is %s", n+1, line)
		}
		if r.Result.Reward == 1 {
			solved[in.models[n]]++
		}
		n++
	})
	if n != len(in.ids) {
		c.t.Errorf("%d results for %d lines", n, len(in.ids))
	}
	for model, want := range in.solved {
		if solved[model] != want {
			c.t.Errorf("%s solves %d, known are %d", model, solved[model], want)
		}
	}
}

// progress returns how many items of the plugin's newest job are done, and of how
// many.
func (c *cluster) progress(plugin string) (done, items int64) {
	out, err := c.tool(nil, "jobs", "--limit", "1", "--json")
	if err != nil {
		return 0, 0
	}
	var jobs []struct {
		Spec   struct{ Plugin string }
		Counts struct{ Items, OK, Error, Dead int64 }
	}
	if json.Unmarshal(out, &jobs) != nil || len(jobs) == 0 || jobs[0].Spec.Plugin != plugin {
		return 0, 0
	}
	n := jobs[0].Counts
	return n.OK + n.Error + n.Dead, n.Items
}

// TestEveryModeWithAWorkerKilledHalfway scores all completions in each mode over both
// wires while one of two workers is killed about halfway.
func TestEveryModeWithAWorkerKilledHalfway(t *testing.T) {
	in := completions(t)
	for _, protocol := range []string{"h2", "quic"} {
		t.Run(protocol, func(t *testing.T) {
			c := newCluster(t, protocol, 2, "gsm8k-reward", "gsm8k-reward-python", "gsm8k-reward-c")
			for k, plugin := range []string{"gsm8k-reward", "gsm8k-reward-python", "gsm8k-reward-c"} {
				s := c.submit(in, plugin, plugin)
				c.await("half of the items", func() bool {
					done, items := c.progress(plugin)
					return items == int64(len(in.ids)) && done*5 > items*2 || len(s.done) > 0
				})
				killed := c.work[k%2]
				pid := killed.signal(syscall.SIGKILL)
				done, _ := c.progress(plugin)
				t.Logf("%s: killed pid %d after %d of %d", plugin, pid, done, len(in.ids))
				c.wait(s, in)
				c.await("the worker to be back", func() bool { return c.ready() == 2 })
			}
		})
	}
}
