//go:build linux

package storage

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The fault tests run a store in a process of its own: this test binary, started
// again with a specification in its environment. The child reports on a pipe that
// the faults do not touch, one short line for each thing that it has seen happen,
// written before it goes on. A line in the pipe is therefore an acknowledgement
// that a client had in hand when the child died.

// childSpecEnv carries the specification of a child as JSON.
const childSpecEnv = "ROLLOUT_STORAGE_TEST_CHILD"

// childSpec tells a child what to do with the store at Path.
type childSpec struct {
	Mode    string // a key of childModes
	Path    string
	Writers int
	Ops     int    // 0: until killed
	Round   int    // makes client names and values differ between rounds
	Seed    uint64 // of the child's random choices
	Bug     string // a planted defect, see bugHooks
	Stop    string // mode load: the hookPoint to die at
	StopAt  int    // on its n-th passing, from 1
	Fault   string // mode load: what goes wrong on the n-th acknowledgement, see childFault
	FaultAt int
}

// bugHooks are the planted defects by name.
func bugHooks(t testing.TB, name string) hooks {
	switch name {
	case "":
		return hooks{}
	case "ack early":
		return hooks{ackEarly: true}
	case "publish early":
		return hooks{publishEarly: true}
	case "no sync":
		return hooks{noSync: true}
	case "no checksum":
		return hooks{noChecksum: true}
	}
	t.Fatalf("no planted defect is called %q", name)
	return hooks{}
}

// childModes are the things that a child can do. Each runs until it is killed or
// done; an error goes to the parent as the line "fail ...".
var childModes = map[string]func(ctx context.Context, c *childProcess) error{
	"load":   childLoad,
	"watch":  childWatch,
	"linear": childLinear,
	"open":   childOpen,
}

// childProcess is the child's view of itself.
type childProcess struct {
	childSpec
	t     testing.TB
	store *Store

	mu     sync.Mutex // guards report: a line is one write
	report *os.File
}

// say sends one line to the parent. A child whose parent is gone ends.
func (c *childProcess) say(format string, args ...any) {
	line := fmt.Appendf(nil, format+"\n", args...)
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, err := c.report.Write(line); err != nil {
		os.Exit(4)
	}
}

// TestChaosChild is the child's entry. As a test of its own it has nothing to do.
func TestChaosChild(t *testing.T) {
	text, ok := os.LookupEnv(childSpecEnv)
	if !ok {
		return
	}
	c := &childProcess{t: t, report: os.NewFile(3, "report")}
	if err := json.Unmarshal([]byte(text), &c.childSpec); err != nil {
		t.Fatal(err)
	}
	mode, ok := childModes[c.Mode]
	if !ok {
		t.Fatalf("no mode %q", c.Mode)
	}
	if err := mode(t.Context(), c); err != nil {
		c.say("fail %v", err)
		os.Exit(3)
	}
	c.say("done")
	os.Exit(0)
}

// child is the parent's handle of a running child.
type child struct {
	t      testing.TB
	cmd    *exec.Cmd
	lines  *bufio.Scanner
	pipe   *os.File
	ended  bool
	output *os.File
	// failure is what the child said on its "fail" line.
	failure string
}

// startChild starts this binary with a specification. Further environment is for
// failpoints; wrap is a command line put in front, such as strace.
func startChild(t testing.TB, spec childSpec, wrap []string, env ...string) *child {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(append([]string{}, wrap...), self, "-test.run=^TestChaosChild$", "-test.timeout=10m")
	c := &child{t: t, cmd: exec.Command(args[0], args[1:]...), pipe: r, lines: bufio.NewScanner(r)}
	if c.output, err = os.CreateTemp(t.TempDir(), "child"); err != nil {
		t.Fatal(err)
	}
	// The race detector would let every exit wait for a second.
	c.cmd.Env = append(append(os.Environ(), childSpecEnv+"="+string(text), "GORACE=atexit_sleep_ms=0"), env...)
	c.cmd.ExtraFiles = []*os.File{w}
	c.cmd.Stdout, c.cmd.Stderr = c.output, c.output
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	t.Cleanup(c.kill)
	return c
}

// next returns the child's next line in words, nil when the pipe ended.
func (c *child) next() []string {
	if !c.lines.Scan() {
		return nil
	}
	words := strings.Fields(c.lines.Text())
	if len(words) > 0 && words[0] == "fail" {
		c.failure = strings.Join(words[1:], " ")
	}
	return words
}

// kill sends SIGKILL and waits until the process is gone. Lines already in the
// pipe can still be read.
func (c *child) kill() {
	if c.ended {
		return
	}
	c.ended = true
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		c.t.Error(err)
	}
	// The exit status of a killed process says nothing.
	_ = c.cmd.Wait()
}

// wait waits for the child's own end and returns its exit status and what it
// printed.
func (c *child) wait() (status int, output string) {
	c.t.Helper()
	if !c.ended {
		c.ended = true
		var exit *exec.ExitError
		if err := c.cmd.Wait(); err != nil && !errors.As(err, &exit) {
			c.t.Fatal(err)
		}
	}
	return c.cmd.ProcessState.ExitCode(), c.printed()
}

// printed is what the child wrote to its own output so far.
func (c *child) printed() string {
	if _, err := c.output.Seek(0, io.SeekStart); err != nil {
		return err.Error()
	}
	b, err := io.ReadAll(c.output)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// killAfter kills the child once d has passed. The pipe ends then.
func (c *child) killAfter(d time.Duration) {
	timer := time.AfterFunc(d, func() {
		// The process may have ended by itself; next finds the end of the pipe either way.
		_ = c.cmd.Process.Kill()
	})
	c.t.Cleanup(func() { timer.Stop() })
}

// chaosCount is the number of rounds: the small one that every test run does, or
// what ROLLOUT_CHAOS_COUNT asks for.
func chaosCount(t testing.TB, small int) int {
	t.Helper()
	text := os.Getenv("ROLLOUT_CHAOS_COUNT")
	if text == "" {
		return small
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("ROLLOUT_CHAOS_COUNT=%q is not a number of rounds", text)
	}
	return n
}

// chaosSeed is the seed of a run, logged so that it can be given back in
// ROLLOUT_CHAOS_SEED.
func chaosSeed(t testing.TB) uint64 {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("ROLLOUT_CHAOS_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("ROLLOUT_CHAOS_SEED=%d", seed)
	return seed
}

// number parses a decimal word of a child's line.
func number(t testing.TB, word string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(word, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
