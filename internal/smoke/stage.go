package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// patience bounds waits on whose length nothing is promised.
const patience = 15 * time.Second

// stage is one run: its processes and what the steps know of each other.
type stage struct {
	bin, source   string // directories: of the programs, and of the source tree
	dir, protocol string
	interval      time.Duration
	out           io.Writer

	addr   string // of the coordinator, once started
	all    []*process
	coord  *process
	w1, w2 *process
	id1    string
	id2    string
}

func (s *stage) program(name string) string { return filepath.Join(s.bin, name) }

func (s *stage) path(parts ...string) string {
	return filepath.Join(append([]string{s.dir}, parts...)...)
}

// launch starts a program and remembers it.
func (s *stage) launch(name, program string, args ...string) (*process, error) {
	p, err := start(name, s.path(name+".log"), s.program(program), args...)
	if err != nil {
		return nil, err
	}
	s.all = append(s.all, p)
	return p, nil
}

// writeConfig writes the one file that all programs of the run read.
func (s *stage) writeConfig(listen string) error {
	text := fmt.Sprintf("[transport]\nprotocol = %q\nlisten_addr = %q\ntls_dir = %q\nheartbeat_interval = %q\n",
		s.protocol, listen, s.path("tls"), s.interval)
	return os.WriteFile(s.path("rollout.toml"), []byte(text), 0o600)
}

// startCoordinator starts it and waits until it serves.
func (s *stage) startCoordinator(ctx context.Context) (core.Event, error) {
	p, err := s.launch("coordinator", "coordinator", "--config", s.path("rollout.toml"), "--data-dir", s.path("coordinator"), "--log-level", "debug")
	if err != nil {
		return core.Event{}, err
	}
	s.coord = p
	ev, err := p.await(ctx, 0, patience, core.TopicCoordinatorStarted, topic(core.TopicCoordinatorStarted, ""))
	if err != nil {
		return ev, err
	}
	addr, ok := ev.Attrs["addr"].(string)
	if _, _, err := net.SplitHostPort(addr); !ok || err != nil {
		return ev, fmt.Errorf("coordinator_started names the address %v", ev.Attrs["addr"])
	}
	s.addr = addr
	return ev, nil
}

// startWorker starts a worker with every plugin and a data directory of its own.
func (s *stage) startWorker(name, id string) (*process, error) {
	args := []string{"--config", s.path("rollout.toml"), "--data-dir", s.path(name), "--addr", s.addr, "--worker-id", id}
	for _, p := range s.plugins() {
		args = append(args, "--plugin", p.manifest)
	}
	return s.launch(name, "worker", args...)
}

// ask runs the rollout tool and decodes its JSON.
func (s *stage) ask(ctx context.Context, v any, args ...string) error {
	args = append(args, "--json", "--addr", s.addr, "--tls-dir", s.path("tls"))
	cmd := exec.CommandContext(ctx, s.program("rollout"), args...)
	cmd.Env = cleanEnv()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("rollout %s: %w: %s", strings.Join(args, " "), err, stderr.String())
	}
	return json.Unmarshal(stdout.Bytes(), v)
}

// workers returns the book by worker id.
func (s *stage) workers(ctx context.Context) (map[string]core.WorkerRow, error) {
	var rows []core.WorkerRow
	if err := s.ask(ctx, &rows, "workers"); err != nil {
		return nil, err
	}
	out := map[string]core.WorkerRow{}
	for _, r := range rows {
		out[r.ID.String()] = r
	}
	return out, nil
}

// pause lets time pass, because passing time is what is tested.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end kills what still runs and reports lines of stdout that were no events.
func (s *stage) end() error {
	var errs []error
	for _, p := range s.all {
		p.kill()
		for _, line := range p.bad {
			errs = append(errs, fmt.Errorf("%s printed a line that is no event: %q", p.name, line))
		}
		if err := syscall.Kill(-p.cmd.Process.Pid, 0); err == nil {
			errs = append(errs, fmt.Errorf("a process of %s outlived it", p.name))
		}
	}
	return errors.Join(errs...)
}

// tails quotes the last lines of every log, for a run that failed.
func (s *stage) tails() string {
	var b strings.Builder
	done := map[string]bool{}
	for _, p := range s.all {
		if done[p.stderr] {
			continue
		}
		done[p.stderr] = true
		text, err := os.ReadFile(p.stderr)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		fmt.Fprintf(&b, "\n%s ends with:\n  %s", p.name, strings.Join(lines[max(0, len(lines)-5):], "\n  "))
	}
	return b.String()
}
