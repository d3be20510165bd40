package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// process is one running program and the events it printed.
type process struct {
	name    string
	cmd     *exec.Cmd
	stderr  string        // file
	exited  chan struct{} // closed when it is gone and its output is read
	waitErr error         // valid after exited is closed

	// mu guards the fields below.
	mu      sync.Mutex
	events  []core.Event
	bad     []string      // lines of stdout that are no event
	changed chan struct{} // closed and replaced at every line
}

// start runs a program. Its environment holds nothing of ours.
func start(name, stderr, program string, args ...string) (*process, error) {
	p := &process{name: name, stderr: stderr, exited: make(chan struct{}), changed: make(chan struct{})}
	log, err := os.OpenFile(stderr, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	p.cmd = exec.Command(program, args...)
	p.cmd.Env = cleanEnv()
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a Ctrl-C is for the driver alone
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%s does not start (run make build first): %w", program, err)
	}
	go p.read(stdout)
	return p, nil
}

func cleanEnv() (env []string) {
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "ROLLOUT_") {
			env = append(env, kv)
		}
	}
	return env
}

// read takes every line until the program ends.
func (p *process) read(stdout io.Reader) {
	defer close(p.exited)
	lines := bufio.NewScanner(stdout)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var ev core.Event
		err := json.Unmarshal(lines.Bytes(), &ev)
		p.mu.Lock()
		if err != nil || ev.Time.IsZero() || ev.Kind == "" {
			p.bad = append(p.bad, lines.Text())
		} else {
			p.events = append(p.events, ev)
		}
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
	p.waitErr = errors.Join(lines.Err(), p.cmd.Wait())
}

// match selects events.
type match func(core.Event) bool

// topic selects the events of a topic about a worker.
func topic(topic, worker string) match {
	return func(ev core.Event) bool { return ev.Topic == topic && (worker == "" || ev.WorkerID == worker) }
}

// seen returns the events behind the first from that match.
func (p *process) seen(from int, m match) (out []core.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ev := range p.events[from:] {
		if m(ev) {
			out = append(out, ev)
		}
	}
	return out
}

// mark returns how many events there are, as a place to look from.
func (p *process) mark() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.events)
}

// await waits for an event behind the first from.
func (p *process) await(ctx context.Context, from int, within time.Duration, what string, m match) (core.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		p.mu.Lock()
		changed := p.changed
		p.mu.Unlock()
		if evs := p.seen(from, m); len(evs) > 0 {
			return evs[0], nil
		}
		select {
		case <-changed:
		case <-p.exited:
			if evs := p.seen(from, m); len(evs) > 0 {
				return evs[0], nil
			}
			return core.Event{}, fmt.Errorf("%s ended (%v) before %s", p.name, p.waitErr, what)
		case <-ctx.Done():
			return core.Event{}, fmt.Errorf("%s did not print %s within %v", p.name, what, within)
		}
	}
}

// signal sends a signal.
func (p *process) signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// exit waits for the end and returns the exit status, -1 after a signal.
func (p *process) exit(ctx context.Context, within time.Duration) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("%s is still running after %v", p.name, within)
	}
}

// kill ends the process and all of its group, whatever state they are in.
func (p *process) kill() {
	// The group may be gone already, which is what is wanted.
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.exited
}
