package cloudlocal

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// The kills of the queue run it in a process of its own: this test binary, started
// again. The child writes a line when it is about to change something and another
// when that is durable, on a pipe that the kill does not touch.

// queueChildEnv carries the child's task as JSON.
const queueChildEnv = "ROLLOUT_CLOUDLOCAL_TEST_QUEUE"

const (
	killProducers = 4
	killConsumers = 8
	killAttempts  = 3  // failures after which an item is dead
	killMinAcks   = 30 // in a round, before the kill counts; in a long run
	killManyAcks  = 450
	killLease     = 5 * time.Millisecond
)

type queueTask struct {
	Path  string
	Round int
	Bug   bool   // leases are not checked
	Hog   string // name of a control group in which it takes memory until it is killed
}

// poison reports whether an item fails whenever it is tried.
func poison(key string) bool { return key[len(key)-1] == '7' }

// openKillQueue opens the store and the queue of a round, as a restarted
// coordinator does: what the round before held is lost with it.
func openKillQueue(ctx context.Context, task queueTask) (*storage.Store, *Queue, int, error) {
	store, err := storage.Open(ctx, storage.Config{Path: task.Path})
	if err != nil {
		return nil, nil, 0, err
	}
	q, err := OpenQueue(ctx, QueueConfig{
		Storage: store, Logger: quiet(), Window: 16, MaxAttempts: killAttempts, MaxLosses: 1 << 20,
		RetryFloor: time.Millisecond, RetryBase: time.Millisecond, RetryMax: 2 * time.Millisecond, hooks: queueHooks{trustLeases: task.Bug},
	})
	if err != nil {
		return nil, nil, 0, errors.Join(err, store.Close())
	}
	released := 0
	for c := range killConsumers {
		out, err := q.ReleaseOwner(ctx, killOwner(c), uint64(task.Round), true, "killed")
		if err != nil {
			return nil, nil, 0, errors.Join(err, q.Close(), store.Close())
		}
		released += len(out)
	}
	return store, q, released, nil
}

func killOwner(c int) core.WorkerID { return core.WorkerID{15: byte(c + 1)} }

// killResult is the row that finishing an item stores: one for each lease, so that
// two finishes of an item are two rows.
func killResult(key string, l core.Lease) core.Key {
	return core.NewKey(core.NamespaceResults, key, fmt.Sprint(l.Token))
}

// queueChild is a child at work.
type queueChild struct {
	queueTask
	q *Queue

	mu     sync.Mutex // guards report: a line is one write
	report *os.File
}

// say tells the parent. A child without one ends.
func (c *queueChild) say(what string, args ...any) {
	line := append(fmt.Appendf(nil, "%s", what), fmt.Sprintln(append([]any{""}, args...)...)...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.report.Write(line); err != nil {
		os.Exit(4)
	}
}

// TestQueueChild is the child. Without a task it has nothing to do.
func TestQueueChild(t *testing.T) {
	text := os.Getenv(queueChildEnv)
	if text == "" {
		return
	}
	c := &queueChild{report: os.NewFile(3, "report")}
	if err := json.Unmarshal([]byte(text), &c.queueTask); err != nil {
		t.Fatal(err)
	}
	_, q, released, err := openKillQueue(t.Context(), c.queueTask)
	if err != nil {
		c.say("fail", err)
		os.Exit(3)
	}
	c.q = q
	c.say("released", released)
	for p := range killProducers {
		go c.end(func() error { return c.produce(p) })
	}
	for i := range killConsumers {
		go c.end(func() error { return c.consume(i) })
	}
	if c.Hog != "" {
		c.takeMemory()
	}
	select {}
}

// takeMemory waits until the process is in the control group and then takes more and
// more memory, which ends it.
func (c *queueChild) takeMemory() {
	for {
		groups, err := os.ReadFile("/proc/self/cgroup")
		if err != nil {
			c.say("fail", err)
			os.Exit(3)
		}
		if bytes.Contains(groups, []byte(c.Hog)) {
			break
		}
		wait(time.Millisecond)
	}
	var taken [][]byte
	for {
		taken = append(taken, bytes.Repeat([]byte("memory!!"), 1<<17))
		wait(time.Millisecond)
	}
}

// end ends the child with the error of one of its loops.
func (c *queueChild) end(loop func() error) {
	c.say("fail", loop())
	os.Exit(3)
}

func (c *queueChild) produce(p int) error {
	for n := 0; ; n++ {
		items := make([]core.NewItem, 1+n%5)
		for i := range items {
			key := fmt.Sprintf("%d.%d.%d.%d", c.Round, p, n, i)
			if n%10 == 7 && i == 0 {
				key += ".7"
			}
			items[i] = core.NewItem{Payload: []byte(key), IdempotencyKey: key, Priority: int32(n % 3)}
			c.say("put?", key)
		}
		if _, err := c.q.Enqueue(context.Background(), "q", items); err != nil {
			return err
		}
		for _, it := range items {
			c.say("put", string(it.Payload))
		}
		if err := c.keepUp(); err != nil {
			return err
		}
	}
}

// keepUp lets the producers wait for the consumers, so that every round reaches
// items of all ages.
func (c *queueChild) keepUp() error {
	for {
		s, err := c.q.Stats(context.Background(), "q")
		if err != nil || s.Ready < 200 {
			return err
		}
		wait(time.Millisecond)
	}
}

func wait(d time.Duration) { <-time.After(d) }

func (c *queueChild) consume(i int) error {
	opts := core.DequeueOptions{Queues: []string{"q"}, Owner: killOwner(i), Epoch: uint64(c.Round) + 1, MaxItems: 1 + i, Wait: time.Minute}
	if i == 0 {
		opts.LeaseFor = killLease
	}
	for {
		items, err := c.q.Dequeue(context.Background(), opts)
		if err != nil {
			return err
		}
		for _, it := range items {
			c.say("got", string(it.Payload))
		}
		for _, it := range items {
			if err := c.work(it); core.IsCode(err, core.CodeLeaseLost) {
				c.say("lost", string(it.Payload)) // nobody could have taken it
			} else if err != nil {
				return err
			}
		}
	}
}

// work finishes one item, fails it, or comes too late with it.
func (c *queueChild) work(it core.LeasedItem) error {
	key := string(it.Payload)
	switch {
	case !it.Deadline.IsZero():
		c.say("late", key)
		return c.tooLate(it)
	case poison(key):
		c.say("fail?", key)
		out, err := core.NackOne(context.Background(), c.q, core.Nack{Lease: it.Lease, Kind: core.NackFailed, Code: core.CodeTransient, Retry: core.RetryHint{Kind: core.RetryNow}})
		if err == nil && out.Dead {
			c.say("dead", key)
		}
		return err
	}
	c.say("ack?", key)
	err := core.AckOne(context.Background(), c.q, it.Lease, core.Write{Key: killResult(key, it.Lease), Value: []byte("done")})
	if err == nil {
		c.say("ack", key)
	}
	return err
}

// tooLate acknowledges when the lease has run out, again and again while others
// may have the item.
func (c *queueChild) tooLate(it core.LeasedItem) error {
	wait(time.Until(it.Deadline))
	for range 5 {
		err := core.AckOne(context.Background(), c.q, it.Lease, core.Write{Key: killResult(string(it.Payload), it.Lease), Value: []byte("late")})
		if err == nil {
			c.say("stale", string(it.Payload))
			return nil
		}
		if !core.IsCode(err, core.CodeLeaseLost) {
			return err
		}
		wait(time.Millisecond)
	}
	return nil
}

// queueParent is the parent's handle of a child.
type queueParent struct {
	cmd   *exec.Cmd
	pipe  *os.File
	lines *bufio.Scanner
	errs  bytes.Buffer
}

func startQueueChild(t *testing.T, task queueTask) *queueParent {
	t.Helper()
	text, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &queueParent{pipe: r, lines: bufio.NewScanner(r)}
	p.cmd = exec.Command(os.Args[0], "-test.run=^TestQueueChild$", "-test.timeout=10m")
	p.cmd.Env = append(os.Environ(), queueChildEnv+"="+string(text), "GORACE=atexit_sleep_ms=0")
	p.cmd.ExtraFiles = []*os.File{w}
	p.cmd.Stdout, p.cmd.Stderr = &p.errs, &p.errs
	if err := errors.Join(p.cmd.Start(), w.Close()); err != nil {
		t.Fatal(err)
	}
	return p
}

func killPath(t *testing.T) string { return filepath.Join(t.TempDir(), "rollout.db") }
