//go:build linux

package storage

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// The linearizability harness: clients work on pairs of rows, and the history of
// each pair is given to porcupine. The child reports
//
//	call ID CLIENT PAIR KIND ARG     before an operation
//	ret ID OUTCOME VALUE             after it
//
// Lines are ordered as the child's events are: a line is written before the
// operation begins or after it has ended. An operation that was under way when the
// child was killed has no end: it may have happened at any time since, or never.

const (
	linearClients = 16
	linearPairs   = 6
	linearOps     = 1000 // of each client, in a full run
	linearFewOps  = 400  // of each client, in every other run
)

// pairOp is one operation on a pair.
type pairOp struct {
	pair int
	kind string // get, put, cas or move
	arg  string // put: the value; cas: the value to set, if the pair holds old
	old  string // cas: what the client thinks is there; move: the value of the first row becomes the second's
}

// pairResult is what the operation answered.
type pairResult struct {
	outcome string // ok, no (a swap refused, a conflict), or unknown
	value   string // get and move: "FIRST,SECOND" as read
}

// pairModel is the sequential behaviour of one pair: its state is "FIRST,SECOND".
var pairModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		parts := make([][]porcupine.Operation, linearPairs)
		for _, op := range history {
			pair := op.Input.(pairOp).pair
			parts[pair] = append(parts[pair], op)
		}
		return parts
	},
	Init: func() any { return "-,-" },
	Step: func(state, input, output any) (bool, any) {
		st, in, out := state.(string), input.(pairOp), output.(pairResult)
		first, second, _ := strings.Cut(st, ",")
		switch in.kind {
		case "get":
			return out.outcome == "unknown" || out.value == st, st
		case "put":
			return true, map[bool]string{true: in.arg + "," + in.arg, false: st}[out.outcome != "no"]
		case "cas":
			switch {
			case out.outcome == "ok":
				return first == in.old, in.arg + "," + second
			case out.outcome == "no":
				return first != in.old || out.value == "conflict", st
			case first == in.old:
				return true, in.arg + "," + second
			}
			return true, st
		case "move":
			switch out.outcome {
			case "ok":
				return out.value == st, in.arg + "," + first
			case "no":
				return true, st
			}
			return true, in.arg + "," + first
		}
		return false, st
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprint(input, " -> ", output) },
}

func pairKeys(pair int) (first, second core.Key) {
	k := core.NewKey(core.NamespaceJobs, fmt.Sprintf("pair%d", pair))
	return k.Child("first"), k.Child("second")
}

// childLinear runs the clients, each for Ops operations.
func childLinear(ctx context.Context, c *childProcess) error {
	store, err := openHooked(ctx, c.Path, bugHooks(c.t, c.Bug))
	if err != nil {
		return err
	}
	c.store = store
	c.say("ready")
	var group sync.WaitGroup
	for client := range c.Writers {
		group.Go(func() {
			rnd := rand.New(rand.NewPCG(c.Seed, uint64(client)))
			for n := range c.Ops {
				id := fmt.Sprintf("%d.%d.%d", c.Round, client, n)
				c.oneLinear(ctx, rnd, id, client)
			}
		})
	}
	group.Wait()
	return nil
}

// oneLinear reports and runs one random operation. Half of them read.
func (c *childProcess) oneLinear(ctx context.Context, rnd *rand.Rand, id string, client int) {
	op := pairOp{pair: rnd.IntN(linearPairs), kind: "get", arg: id, old: "-"}
	switch rnd.IntN(6) {
	case 0:
		op.kind = "put"
	case 1:
		op.kind = "cas"
		if first, _, err := c.readPair(ctx, c.store, op.pair); err == nil {
			op.old = first
		}
	case 2:
		op.kind = "move"
	}
	c.say("call %s %d %d %s %s %s", id, client, op.pair, op.kind, op.arg, op.old)
	res := c.runPair(ctx, op)
	c.say("ret %s %s %s", id, res.outcome, res.value)
}

func (c *childProcess) readPair(ctx context.Context, r core.Reader, pair int) (first, second string, err error) {
	a, b := pairKeys(pair)
	es, err := r.GetMany(ctx, a, b)
	if err != nil {
		return "", "", err
	}
	text := func(e core.Entry) string {
		if !e.Exists() {
			return "-"
		}
		return string(e.Value)
	}
	return text(es[0]), text(es[1]), nil
}

// runPair runs the operation as one transaction, or one read.
func (c *childProcess) runPair(ctx context.Context, op pairOp) pairResult {
	if op.kind == "get" {
		first, second, err := c.readPair(ctx, c.store, op.pair)
		if err != nil {
			return pairResult{outcome: "unknown", value: "-"}
		}
		return pairResult{outcome: "ok", value: first + "," + second}
	}
	value, err := c.commitPair(ctx, op)
	var refused *refusedError
	switch {
	case err == nil:
		return pairResult{outcome: "ok", value: value}
	case errors.As(err, &refused):
		return pairResult{outcome: "no", value: "refused"}
	case core.IsCode(err, core.CodeConflict):
		return pairResult{outcome: "no", value: "conflict"}
	}
	return pairResult{outcome: "unknown", value: "-"}
}

// refusedError is a swap whose row held something else.
type refusedError struct{}

func (*refusedError) Error() string { return "the row holds something else" }

func (c *childProcess) commitPair(ctx context.Context, op pairOp) (string, error) {
	tx, err := c.store.Begin(ctx)
	if err != nil {
		return "", err
	}
	defer tx.Discard()
	a, b := pairKeys(op.pair)
	value := "-"
	switch op.kind {
	case "put":
		if err := errors.Join(tx.Put(a, []byte(op.arg)), tx.Put(b, []byte(op.arg))); err != nil {
			return "", err
		}
	case "cas":
		var old []byte
		if op.old != "-" {
			old = []byte(op.old)
		}
		swapped, err := tx.CompareAndSwap(ctx, a, old, []byte(op.arg))
		if err != nil {
			return "", err
		}
		if !swapped {
			// Only a commit proves that what was read is one state.
			if _, err := tx.Commit(ctx); err != nil {
				return "", err
			}
			return "", &refusedError{}
		}
	case "move":
		first, second, err := c.readPair(ctx, tx, op.pair)
		if err != nil {
			return "", err
		}
		value = first + "," + second
		if err := tx.Put(a, []byte(op.arg)); err != nil {
			return "", err
		}
		if first == "-" {
			err = tx.Delete(b)
		} else {
			err = tx.Put(b, []byte(first))
		}
		if err != nil {
			return "", err
		}
	}
	_, err = tx.Commit(ctx)
	return value, err
}

// linearHistory collects the history of one store over several lives.
type linearHistory struct {
	t    testing.TB
	ops  []porcupine.Operation
	open map[string]int // id -> index into ops
	now  int64
	done int
}

func (h *linearHistory) read(words []string) {
	h.now++
	switch words[0] {
	case "call":
		h.open[words[1]] = len(h.ops)
		h.ops = append(h.ops, porcupine.Operation{
			ClientId: int(number(h.t, words[2])),
			Input:    pairOp{pair: int(number(h.t, words[3])), kind: words[4], arg: words[5], old: words[6]},
			Call:     h.now,
			Return:   1 << 60, // until the end is known, any time
			Output:   pairResult{outcome: "unknown", value: "-"},
		})
	case "ret":
		op := &h.ops[h.open[words[1]]]
		delete(h.open, words[1])
		op.Output = pairResult{outcome: words[2], value: words[3]}
		if words[2] != "unknown" {
			op.Return = h.now
		}
		h.done++
	}
}

// history runs the clients over kills lives cut short and one that ends by itself.
func history(t *testing.T, seed uint64, kills int, bug string) *linearHistory {
	t.Helper()
	h := &linearHistory{t: t, open: map[string]int{}}
	rnd := rand.New(rand.NewPCG(seed, 3))
	path := filepath.Join(t.TempDir(), "linear.db")
	ops := linearFewOps / 2 // a life that is cut short makes half of them or more
	if chaosCount(t, 0) > 0 {
		ops = linearOps / 2
	}
	for life := range kills + 1 {
		c := startChild(t, childSpec{Mode: "linear", Path: path, Writers: linearClients, Ops: ops, Round: life, Seed: seed + uint64(life), Bug: bug}, nil)
		until := h.done + linearClients*ops
		if life < kills {
			until = h.done + linearClients*ops/2 + rnd.IntN(linearClients*ops/3)
		}
		for words := c.next(); words != nil; words = c.next() {
			if words[0] == "fail" {
				t.Fatalf("the child failed: %s", c.failure)
			}
			h.read(words)
			if life < kills && h.done >= until {
				c.kill()
			}
		}
		c.kill()
		clear(h.open) // without an end for ever
	}
	return h
}

// TestR8Linearizable checks histories of 16 clients over a store that is killed
// twice in each of them.
func TestR8Linearizable(t *testing.T) {
	t.Parallel()
	seed := chaosSeed(t)
	const floor = 100 // operations a second, of a run that has the machine to itself
	for run := range chaosCount(t, 5) {
		began := time.Now()
		h := history(t, seed+uint64(run)*100, 2, "")
		rate := float64(h.done) / time.Since(began).Seconds()
		if rate < floor && os.Getenv("ROLLOUT_CHAOS_COUNT") != "" {
			t.Errorf("%.0f operations a second: the history proves nothing", rate)
		}
		switch res := porcupine.CheckOperationsTimeout(pairModel, h.ops, time.Minute); res {
		case porcupine.Ok:
			t.Logf("history %d: %d operations, %d without an end, %.0f/s", run, len(h.ops), len(h.ops)-h.done, rate)
		default:
			t.Fatalf("history %d of %d operations: %s", run, len(h.ops), res)
		}
	}
}

// TestR8FindsAcknowledgementBeforeCommit shows that the harness above can fail.
func TestR8FindsAcknowledgementBeforeCommit(t *testing.T) {
	seed := chaosSeed(t)
	for run := range 50 {
		h := history(t, seed+uint64(run), 2, "ack early")
		if porcupine.CheckOperationsTimeout(pairModel, h.ops, time.Minute) == porcupine.Illegal {
			return
		}
	}
	t.Error("50 histories of a store that acknowledges before it commits all passed")
}
