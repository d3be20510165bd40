package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// grace is how long an interrupted program may take to end, however loaded the
// machine is.
const grace = 2 * time.Minute

// output collects what a process prints; others wait for it.
type output struct {
	mu      sync.Mutex // guards the fields below
	text    strings.Builder
	changed chan struct{} // closed and replaced at each write
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	close(o.changed)
	o.changed = make(chan struct{})
	return len(p), nil
}

// from returns what was printed behind the first n bytes, and a channel that is
// closed when there is more.
func (o *output) from(n int) (string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()[n:], o.changed
}

// process is a program in a group of its own.
type process struct {
	cmd  *exec.Cmd
	out  *output
	done chan struct{} // closed when it has ended
}

// start runs a program and collects what it prints.
func start(dir string, env []string, stdin io.Reader, argv ...string) (*process, error) {
	p := &process{cmd: exec.Command(argv[0], argv[1:]...), out: newOutput(), done: make(chan struct{})}
	p.cmd.Dir, p.cmd.Env, p.cmd.Stdin = dir, env, stdin
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.WaitDelay = grace // a child that holds the output open
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		// How a program ended shows in what it printed and in echo $?.
		_ = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// signal sends a signal to the program and its children.
func (p *process) signal(s syscall.Signal) error {
	if err := syscall.Kill(-p.cmd.Process.Pid, s); err != nil && err != syscall.ESRCH {
		return err
	}
	return nil
}

// interrupt is Ctrl-C: it returns when the program has ended.
func (p *process) interrupt() error {
	if err := p.signal(syscall.SIGINT); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(grace):
		return fmt.Errorf("goes on after Ctrl-C:\n%s", p.all())
	}
}

// kill ends whatever is left of the program's group.
func (p *process) kill() error {
	err := p.signal(syscall.SIGKILL)
	<-p.done
	return err
}

// all returns everything that was printed.
func (p *process) all() string {
	text, _ := p.out.from(0)
	return text
}

// shell is a bash that carries out one command after the other.
type shell struct {
	p     *process
	in    io.WriteCloser
	dir   string // where the commands are written to, and where the shell began
	env   []string
	seen  int // bytes of the output that were read
	count int // commands so far
}

func newShell(dir, scratch string, env []string) (*shell, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p, err := start(dir, env, r, "bash", "--norc", "--noprofile")
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, err
	}
	return &shell{p: p, in: w, dir: scratch, env: env}, nil
}

// run carries out a command and returns what it printed, its exit status, and the
// directory that the shell is in afterwards.
func (s *shell) run(ctx context.Context, command string) (printed string, status int, dir string, err error) {
	s.count++
	file := filepath.Join(s.dir, fmt.Sprintf("command-%d", s.count))
	if err := os.WriteFile(file, []byte(command+"\n"), 0o600); err != nil {
		return "", 0, "", err
	}
	mark := fmt.Sprintf("\x01%d ", s.count)
	line := fmt.Sprintf(". %s </dev/null; __status=$?; printf '\\n%s%%d %%s\\001' $__status \"$PWD\"; (exit $__status)\n", file, mark)
	if _, err := io.WriteString(s.in, line); err != nil {
		return "", 0, "", fmt.Errorf("the shell has ended: %w\n%s", err, s.p.all())
	}
	for {
		text, changed := s.p.out.from(s.seen)
		printed, rest, ok := strings.Cut(text, "\n"+mark)
		if tail, end := strings.CutSuffix(rest, "\x01"); ok && end {
			s.seen += len(text)
			if _, err := fmt.Sscanf(tail, "%d", &status); err != nil {
				return "", 0, "", err
			}
			_, dir, _ = strings.Cut(tail, " ")
			return printed, status, dir, nil
		}
		select {
		case <-changed:
		case <-s.p.done:
			return "", 0, "", fmt.Errorf("the shell ended:\n%s", text)
		case <-ctx.Done():
			return "", 0, "", fmt.Errorf("%w; printed so far:\n%s", context.Cause(ctx), text)
		}
	}
}

// close ends the shell.
func (s *shell) close() error {
	err := s.in.Close()
	if kerr := s.p.kill(); err == nil {
		err = kerr
	}
	return err
}
