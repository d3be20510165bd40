package cloudlocal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// TestR12FullDisk keeps rows and payloads on a file system that is too small for
// them: producers are told, consumers go on, nothing acknowledged is lost.
func TestR12FullDisk(t *testing.T) {
	needRootFor(t, "mount", "umount")
	dir := t.TempDir()
	runTool(t, "mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", dir)
	t.Cleanup(func() { runTool(t, "umount", dir) })
	store, err := storage.Open(t.Context(), storage.Config{Path: filepath.Join(dir, "rollout.db"), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	objects, err := OpenObjects(t.Context(), ObjectsConfig{Root: filepath.Join(dir, "objects"), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer objects.Close()
	p := newPressed(t, QueueConfig{Storage: store, Objects: objects, Window: 16})
	for range min(chaosCount(t, 3), 20) {
		for _, size := range []int{100_000, 3000} { // in the object store, then in rows
			var full error
			for n := 0; full == nil; n++ {
				if n > 10_000 {
					t.Fatal("the disk does not get full")
				}
				full = p.enqueue(4, size, time.Time{})
			}
			p.exhausted(full, "an enqueue on a full disk")
		}
		for len(p.put)-len(p.done) > 10 {
			items, err := p.take(3)
			p.must(err)
			p.ack(items)
			for _, it := range items {
				if len(it.Payload) > 64<<10 {
					p.must(objects.Delete(t.Context(), core.SumContent(it.Payload)))
				}
			}
		}
	}
	p.drain()
	t.Logf("%d items", len(p.put))
}

// memoryEnv carries the task of a child that fills its memory up to its bound.
const memoryEnv = "ROLLOUT_CLOUDLOCAL_TEST_MEMORY"

// memoryTask is such a task, and with the last two fields what came of it.
type memoryTask struct {
	Dir       string
	Cap       int64 // MaxInFlight
	Size      int   // of a payload
	Producers int

	Peak      int64 // anonymous memory, bytes
	Exhausted int64 // calls that were refused
}

// TestMemoryChild is the child. Without a task it has nothing to do.
func TestMemoryChild(t *testing.T) {
	text := os.Getenv(memoryEnv)
	if text == "" {
		return
	}
	var task memoryTask
	if err := json.Unmarshal([]byte(text), &task); err != nil {
		t.Fatal(err)
	}
	store, err := storage.Open(t.Context(), storage.Config{Path: filepath.Join(task.Dir, "rollout.db"), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	q, err := OpenQueue(t.Context(), QueueConfig{Storage: store, MaxInFlight: task.Cap, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	run, stop := context.WithTimeout(t.Context(), 4*time.Second)
	defer stop()
	payload := noise(task.Size, 1)
	items := make([]core.NewItem, max(1, 1<<20/task.Size)) // a MiB at a time, the same for all
	for i := range items {
		items[i].Payload = payload
	}
	var refused atomic.Int64
	var group sync.WaitGroup
	for range task.Producers {
		group.Go(func() {
			for run.Err() == nil {
				_, err := q.Enqueue(context.WithoutCancel(run), "q", items)
				if core.IsCode(err, core.CodeExhausted) {
					refused.Add(1)
					wait(5 * time.Millisecond)
				} else if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for run.Err() == nil {
		task.Peak = max(task.Peak, anonymousBytes(t))
		wait(5 * time.Millisecond)
	}
	group.Wait()
	task.Exhausted = refused.Load()
	if err := errors.Join(q.Close(), store.Close()); err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(task)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.NewFile(3, "report").Write(out); err != nil {
		t.Fatal(err)
	}
}

// anonymousBytes is the memory of this process that no file stands behind.
func anonymousBytes(t *testing.T) int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	return kib(field(string(text), "RssAnon:")) << 10
}

// TestR12MemoryStaysWithinItsCap lets many producers press against the bound: some
// are refused, and the process takes no more than a fifth above it.
func TestR12MemoryStaysWithinItsCap(t *testing.T) {
	if os.Getenv("ROLLOUT_CHAOS_COUNT") == "" {
		t.Skip("NOT RUN: fills memory, see make chaos-r12")
	}
	const limit = 256 << 20
	for _, size := range []int{100, 1000, 4000, 20_000, 60_000} {
		task := memoryTask{Dir: t.TempDir(), Cap: limit, Size: size, Producers: 128}
		text, err := json.Marshal(task)
		if err != nil {
			t.Fatal(err)
		}
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestMemoryChild$", "-test.timeout=10m")
		cmd.Env = append(os.Environ(), memoryEnv+"="+string(text))
		cmd.ExtraFiles = []*os.File{w}
		out, err := cmd.CombinedOutput()
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if err := errors.Join(json.NewDecoder(r).Decode(&task), r.Close()); err != nil {
			t.Fatal(err)
		}
		t.Logf("payloads of %d bytes: %d MiB at most, %d calls refused", size, task.Peak>>20, task.Exhausted)
		if task.Peak > limit*6/5 || task.Exhausted == 0 {
			t.Errorf("payloads of %d bytes: %d MiB of memory with a cap of %d MiB, %d calls refused", size, task.Peak>>20, limit>>20, task.Exhausted)
		}
	}
}

// memoryGroup is a control group with a bound on memory.
type memoryGroup struct {
	dir    string
	limit  string // file that takes the bound
	events string // file that counts kills
}

// newMemoryGroup makes one, where the system has the controller and lets this user.
func newMemoryGroup(t *testing.T, limit int64) *memoryGroup {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	why := "no memory controller is mounted"
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		g := &memoryGroup{limit: "memory.limit_in_bytes", events: "memory.oom_control"}
		switch {
		case f[2] == "cgroup2":
			g.limit, g.events = "memory.max", "memory.events"
		case f[2] != "cgroup" || !strings.Contains(","+f[3]+",", ",memory,"):
			continue
		}
		g.dir = filepath.Join(f[1], "rollout-test-"+strconv.Itoa(os.Getpid()))
		if err := os.Mkdir(g.dir, 0o755); err != nil {
			why = err.Error()
			continue
		}
		t.Cleanup(func() {
			if err := os.Remove(g.dir); err != nil {
				t.Error(err)
			}
		})
		if err := os.WriteFile(filepath.Join(g.dir, g.limit), fmt.Append(nil, limit), 0); err != nil {
			why = err.Error()
			continue
		}
		return g
	}
	t.Skip("NOT RUN: takes a memory controller of control groups that may be written: " + why)
	return nil
}

// kills returns how many processes of the group were killed for memory.
func (g *memoryGroup) kills(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(g.dir, g.events))
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(field(string(text), "oom_kill "), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return n
}

// TestR12KilledForMemory has the kernel kill a process with producers and consumers
// for its memory, again and again: the queue replays, and nothing is lost.
func TestR12KilledForMemory(t *testing.T) {
	needRootFor(t)
	g := newMemoryGroup(t, 192<<20)
	path, l, rounds := killPath(t), newKillLedger(), chaosCount(t, 3)
	for round := range rounds {
		p := startQueueChild(t, queueTask{Path: path, Round: round, Hog: filepath.Base(g.dir)})
		l.acks = 0
		for begun := false; p.lines.Scan(); {
			if l.read(p.lines.Text()); l.acks >= l.least && !begun {
				begun = true
				if err := os.WriteFile(filepath.Join(g.dir, "cgroup.procs"), fmt.Append(nil, p.cmd.Process.Pid), 0); err != nil {
					t.Fatal(err)
				}
			}
		}
		err := p.cmd.Wait()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("round %d: the child ended with %v\n%s", round, err, p.errs.String())
		}
		if err := errors.Join(p.lines.Err(), p.pipe.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if n := g.kills(t); n < int64(rounds) {
		t.Errorf("%d kills for memory in %d rounds", n, rounds)
	}
	l.finish(t, queueTask{Path: path, Round: rounds})
	l.report(t)
}
