package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// findProgram looks beside this program, then on PATH.
func findProgram(name string) (string, error) {
	self, err := os.Executable()
	if err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", core.Errorf("dev", core.CodeNotFound, "the program %s lies neither beside rollout nor on PATH: build all three with `make build`", name)
	}
	return filepath.Abs(path)
}

// part is one program that dev has started.
type part struct {
	name    string
	cmd     *exec.Cmd
	started chan string   // the address, once coordinator_started was seen
	over    chan struct{} // closed when it is gone and its output is read
	err     error         // how it ended; valid after over is closed
	last    string        // the last line of its log; valid after over is closed
}

// start starts one program and reads what it says.
func (d *devRun) start(name, path string, args, env []string) (*part, error) {
	p := &part{name: name, cmd: exec.Command(path, args...), started: make(chan string, 1), over: make(chan struct{})}
	p.cmd.Env = append(append(os.Environ(), "ROLLOUT_LOG_FORMAT=json"), env...)
	// A group of its own keeps Ctrl-C from reaching it beside us: dev says who ends
	// when. It also ends with dev, however that ends.
	p.cmd.SysProcAttr = childAttr()
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, core.Wrap("dev", core.CodeInternal, err)
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, core.Wrap("dev", core.CodeInternal, err)
	}
	if err := d.starter.start(p.cmd); err != nil {
		return nil, core.Errorf("dev", core.CodeInternal, "%s could not be started: %w", path, err)
	}
	d.line(name, fmt.Sprintf("started, pid %d", p.cmd.Process.Pid))
	var readers sync.WaitGroup
	readers.Go(func() { d.readEvents(p, stdout) })
	readers.Go(func() { p.last = d.readLog(p, stderr) })
	go func() {
		readers.Wait()
		p.err = p.cmd.Wait()
		close(p.over)
		d.ended <- p
	}()
	return p, nil
}

// ask tells a part to end in order. It reports whether there is an end to wait for.
func (p *part) ask() bool {
	select {
	case <-p.over:
		return false
	default:
	}
	// It may be gone by now, which its end tells.
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	return true
}

// status is the exit status of a part that is over, -1 after a signal.
func (p *part) status() int { return p.cmd.ProcessState.ExitCode() }

// endedInOrder reports whether a part that was asked to end did so. One that was only
// just started may not know the signal yet.
func (p *part) endedInOrder() bool {
	ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return p.err == nil || ok && ws.Signaled() && ws.Signal() == syscall.SIGTERM
}

// how tells how a part ended.
func (p *part) how() string {
	if p.err == nil {
		return "exit status 0"
	}
	return p.err.Error()
}

// gaveUp is the error that a part ended with. It quotes what the part said last.
func (p *part) gaveUp() error {
	code := core.CodeInternal
	switch p.status() {
	case ExitUsage:
		code = core.CodeConfigInvalid
	case ExitRefused:
		code = core.CodeUnavailable
	}
	said := strings.TrimPrefix(p.last, filepath.Base(p.cmd.Path)+": ")
	if said == "" {
		return core.Errorf("", code, "%s ended: %s", p.name, p.how())
	}
	return core.Errorf("", code, "%s ended (%s): %s", p.name, p.how(), said)
}

// starter starts programs from one thread that lives as long as dev: the kernel ends
// a program with the thread that started it.
type starter struct {
	jobs chan func()
	done chan struct{}
}

func newStarter() *starter {
	s := &starter{jobs: make(chan func()), done: make(chan struct{})}
	go func() {
		runtime.LockOSThread()
		defer close(s.done)
		for f := range s.jobs {
			f()
		}
	}()
	return s
}

func (s *starter) start(cmd *exec.Cmd) error {
	err := make(chan error, 1)
	s.jobs <- func() { err <- cmd.Start() }
	return <-err
}

func (s *starter) stop() {
	close(s.jobs)
	<-s.done
}
