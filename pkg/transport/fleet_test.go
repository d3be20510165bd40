package transport

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// coordinatorProgram builds the coordinator as users have it, once, and returns its
// path. What TestMain calls at the end removes it.
var coordinatorProgram, removeProgram = func() (func() (string, error), func()) {
	var dir string
	build := sync.OnceValues(func() (string, error) {
		var err error
		if dir, err = os.MkdirTemp("", "transport-program"); err != nil {
			return "", err
		}
		path := filepath.Join(dir, "coordinator")
		out, err := exec.Command("go", "build", "-buildvcs=false", "-o", path, "../../cmd/coordinator").CombinedOutput()
		if err != nil {
			return "", fmt.Errorf("go build: %w\n%s", err, out)
		}
		return path, nil
	})
	return build, func() {
		if dir != "" {
			_ = os.RemoveAll(dir) // the process ends; there is nobody to tell
		}
	}
}()

// fleetEvent is what a coordinator printed, and when it was read.
type fleetEvent struct {
	At     time.Time `json:"-"`
	Topic  string    `json:"topic"`
	Worker string    `json:"worker_id"`
	Attrs  struct {
		Addr string `json:"addr"`
	} `json:"attrs"`
}

// program is the real coordinator in a process of its own.
type program struct {
	t     testing.TB
	proto Protocol
	h     time.Duration
	dir   string
	addr  string
	cmd   *exec.Cmd
	read  chan struct{} // closed when everything that it printed has been read

	mu     sync.Mutex // guards the fields below
	events []fleetEvent
	loads  uint32 // load processes so far, which are the groups of ids
}

// startProgram starts a coordinator on a free port and waits until it serves. settings
// are further lines of its [transport] table.
func startProgram(t testing.TB, proto Protocol, h time.Duration, settings ...string) *program {
	t.Helper()
	path, err := coordinatorProgram()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, proto: proto, h: h, dir: t.TempDir(), read: make(chan struct{})}
	conf := fmt.Sprintf("[transport]\nprotocol = %q\nlisten_addr = \"127.0.0.1:0\"\nheartbeat_interval = %q\n%s\n", proto, h, strings.Join(settings, "\n"))
	file := filepath.Join(p.dir, "rollout.toml")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(p.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the program has its own descriptor
	p.cmd = exec.Command(path, "--config", file, "--data-dir", filepath.Join(p.dir, "data"))
	p.cmd.Stderr = log
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ROLLOUT_") {
			p.cmd.Env = append(p.cmd.Env, kv)
		}
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go p.follow(out)
	t.Cleanup(p.stop)
	eventually(t, "the coordinator serves", func() bool {
		for _, e := range p.of("coordinator_started") {
			p.addr = e.Attrs.Addr
		}
		return p.addr != ""
	})
	return p
}

// follow reads events until the program ends.
func (p *program) follow(out io.Reader) {
	defer close(p.read)
	sc := bufio.NewScanner(out)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		e := fleetEvent{At: time.Now()}
		if json.Unmarshal(sc.Bytes(), &e) != nil {
			continue // what is missing is found by those who wait for it
		}
		p.mu.Lock()
		p.events = append(p.events, e)
		p.mu.Unlock()
	}
}

// of returns the events of one topic.
func (p *program) of(topic string) []fleetEvent {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []fleetEvent
	for _, e := range p.events {
		if e.Topic == topic {
			out = append(out, e)
		}
	}
	return out
}

// failedAt returns when each worker was first told to be failed.
func (p *program) failedAt() map[string]time.Time {
	out := map[string]time.Time{}
	for _, e := range p.of(core.TopicWorkerFailed) {
		if _, known := out[e.Worker]; !known {
			out[e.Worker] = e.At
		}
	}
	return out
}

func (p *program) stop() {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Errorf("the coordinator ended by itself: %v", err)
	}
	<-p.read
	if err := p.cmd.Wait(); err != nil {
		log, _ := os.ReadFile(filepath.Join(p.dir, "log")) // whatever is there helps
		p.t.Errorf("the coordinator ended with %v\n%s", err, log[max(0, len(log)-2000):])
	}
}

// memory reads one figure in KiB from /proc/PID/status, and returns bytes.
func memory(t testing.TB, cmd *exec.Cmd, key string) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == key+":" {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n << 10
		}
	}
	t.Fatalf("no %s in /proc", key)
	return 0
}

// processor is the processor time that a process has used, in steps of 10 ms.
func processor(t testing.TB, cmd *exec.Cmd) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var ticks int64
	for _, s := range f[11:13] { // utime and stime
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// crew is a process of many workers.
type crew struct {
	t     testing.TB
	spec  loadSpec
	cmd   *exec.Cmd
	in    io.WriteCloser
	out   *bufio.Scanner
	ended bool
}

// startCrew starts a process of workers, burst of which shake hands at once. Its
// workers are the ids of a group of their own.
func (p *program) startCrew(workers, burst int) *crew {
	p.t.Helper()
	p.mu.Lock()
	p.loads++
	group := p.loads
	p.mu.Unlock()
	return startCrew(p.t, loadSpec{
		Addr: p.addr, Dir: filepath.Join(p.dir, "data", "tls"), Protocol: p.proto, Workers: workers, H: p.h, Burst: burst, Group: group,
	})
}

func startCrew(t testing.TB, spec loadSpec) *crew {
	t.Helper()
	b, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	l := &crew{t: t, spec: spec, cmd: exec.Command(os.Args[0])}
	l.cmd.Env = append(os.Environ(), loadEnv+"="+string(b))
	l.cmd.Stderr = os.Stderr
	if l.in, err = l.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := l.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	l.out = bufio.NewScanner(out)
	if err := l.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.end)
	return l
}

// ready waits until all its workers beat.
func (l *crew) ready() {
	l.t.Helper()
	if got := l.line(); got != "ready" {
		l.t.Fatalf("a load process says %q", got)
	}
}

// line returns the next line that the process prints.
func (l *crew) line() string {
	l.t.Helper()
	if !l.out.Scan() {
		l.t.Fatal("a load process ended")
	}
	return l.out.Text()
}

// report returns what happened since the last report.
func (l *crew) report() (r loadReport) {
	l.t.Helper()
	if _, err := io.WriteString(l.in, "\n"); err != nil {
		l.t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(l.line()), &r); err != nil {
		l.t.Fatal(err)
	}
	return r
}

// has reports whether a worker is one of this process.
func (l *crew) has(worker string) bool {
	id, err := core.ParseWorkerID(worker)
	return err == nil && id == fleetID(l.spec.Group, int(id[12])<<24+int(id[13])<<16+int(id[14])<<8+int(id[15])-1)
}

// signal sends a signal to the process and returns when.
func (l *crew) signal(sig syscall.Signal) time.Time {
	l.t.Helper()
	at := time.Now()
	if err := l.cmd.Process.Signal(sig); err != nil {
		l.t.Fatal(err)
	}
	return at
}

// end kills the process, if it still runs, and waits for it.
func (l *crew) end() {
	if l.ended {
		return
	}
	l.ended = true
	// It may be dead already, which is what is wanted; its status says that it was
	// killed.
	_, _ = l.cmd.Process.Kill(), l.in.Close()
	_ = l.cmd.Wait()
}
