package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/launch"
)

// process is one running sidecar with everything the host holds of it.
type process struct {
	m       core.Manifest
	dir     *runDir
	contain core.Containment
	childID int
	conn    *net.UnixConn // the framed stream, nil for other wires
	stdout  io.ReadCloser // unread, for a wire that shakes hands there; else nil
	tail    *tail         // last lines of stderr

	cmd    *exec.Cmd     // the launcher, or the sidecar itself without one
	order  *os.File      // the launcher's order pipe; nil without launcher
	logs   chan struct{} // closed when the log pipes have ended
	exited chan struct{} // closed when the process is gone and its status known
	exit   launch.Exit   // valid after exited
	ended  chan struct{} // closed when launcher and run directory are gone too

	killOnce sync.Once
}

// spawnOptions are what the wires ask of a new process.
type spawnOptions struct {
	cmd        command
	env        []string // beyond the fixed set
	stream     bool     // give it descriptor 3
	keepStdout bool     // leave stdout to the wire
	dir        *runDir  // made before; nil: make one
}

// spawn starts a sidecar under the launcher, or alone where there is none. ctx
// bounds the start only.
func spawn(ctx context.Context, m core.Manifest, env hostEnv, opts spawnOptions) (*process, error) {
	dir := opts.dir
	if dir == nil {
		var err error
		if dir, err = newRunDir(env.runRoot); err != nil {
			return nil, err
		}
	}
	p := &process{
		m: m, dir: dir, tail: newTail(),
		logs: make(chan struct{}), exited: make(chan struct{}), ended: make(chan struct{}),
	}
	pipes, err := p.openPipes(opts)
	if err != nil {
		return nil, errors.Join(err, dir.remove())
	}
	if len(env.launcher) > 0 {
		err = p.startLauncher(ctx, env, opts, pipes)
	} else {
		err = p.startAlone(env, opts, pipes)
	}
	pipes.closeChild()
	if err != nil {
		pipes.closeHost()
		return nil, errors.Join(err, dir.remove())
	}
	p.readLogs(env, opts, pipes)
	return p, nil
}

// sidecarPipes are both ends of what connects host and child.
type sidecarPipes struct {
	outR, outW, errR, errW, stream *os.File
	conn                           *net.UnixConn
}

func (p *process) openPipes(opts spawnOptions) (_ *sidecarPipes, err error) {
	s := &sidecarPipes{}
	defer func() {
		if err != nil {
			s.closeChild()
			s.closeHost()
			err = core.Wrap("sidecar: open pipes", core.CodeExhausted, err)
		}
	}()
	if s.outR, s.outW, err = os.Pipe(); err != nil {
		return nil, err
	}
	if s.errR, s.errW, err = os.Pipe(); err != nil {
		return nil, err
	}
	if opts.stream {
		s.conn, s.stream, err = streamPair()
		p.conn = s.conn
	} else {
		s.stream, err = os.Open(os.DevNull)
	}
	return s, err
}

// streamPair returns the host's end as a connection and the child's as a file.
func streamPair() (*net.UnixConn, *os.File, error) {
	fds, err := socketPair()
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	host, child := os.NewFile(uintptr(fds[0]), "host"), os.NewFile(uintptr(fds[1]), "plugin")
	conn, err := net.FileConn(host)
	if err = errors.Join(err, host.Close()); err != nil {
		return nil, nil, errors.Join(err, child.Close())
	}
	return conn.(*net.UnixConn), child, nil
}

// closeChild closes the ends that the child has by now; closing a pipe or a
// socket that was never written to cannot lose anything.
func (s *sidecarPipes) closeChild() {
	for _, f := range []*os.File{s.outW, s.errW, s.stream} {
		if f != nil {
			_ = f.Close() // as above
		}
	}
}

func (s *sidecarPipes) closeHost() {
	for _, f := range []*os.File{s.outR, s.errR} {
		if f != nil {
			_ = f.Close() // nothing was written to it
		}
	}
	if s.conn != nil {
		_ = s.conn.Close() // nothing was written to it
	}
}

// startAlone starts the sidecar without a launcher: in a group of its own, ended
// with this process by the parent-death signal, and otherwise uncontained.
func (p *process) startAlone(env hostEnv, opts spawnOptions, pipes *sidecarPipes) error {
	p.cmd = &exec.Cmd{
		Path: opts.cmd.exe, Args: opts.cmd.argv, Dir: p.m.Dir, Env: sidecarEnviron(p.m, env, p.dir, opts.env),
		Stdout: pipes.outW, Stderr: pipes.errW,
		SysProcAttr: aloneAttr(),
	}
	if opts.stream {
		p.cmd.ExtraFiles = []*os.File{pipes.stream}
	}
	p.contain.Missing = []string{"launcher: none configured, the sidecar runs uncontained"}
	if p.m.Sandbox.Require {
		return core.Errorf("sidecar: start", core.CodeFailedPrecondition, "[sandbox] require is set and the host has no launcher to enforce it")
	}
	started := make(chan error, 1)
	go func() {
		defer close(p.ended)
		runtime.LockOSThread() // the parent-death signal follows this thread
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		if err == nil {
			p.childID = p.cmd.Process.Pid
		}
		started <- err
		if err != nil {
			close(p.exited)
			return
		}
		_ = p.cmd.Wait() // what it says is in ProcessState
		p.exit = exitOfState(p.cmd.ProcessState)
		close(p.exited)
		p.killGroup()
		_ = p.dir.remove() // else swept at the next start
	}()
	if err := <-started; err != nil {
		return core.Errorf("sidecar: start", core.CodePluginCrashed, "start %s: %w", opts.cmd.exe, err)
	}
	return nil
}

func exitOfState(st *os.ProcessState) launch.Exit {
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return launch.Exit{Code: -1, Signal: ws.Signal().String()}
	}
	return launch.Exit{Code: st.ExitCode()}
}

// readLogs turns both output pipes into log lines, but for a stdout that the wire
// reads itself.
func (p *process) readLogs(env hostEnv, opts spawnOptions, pipes *sidecarPipes) {
	var wg sync.WaitGroup
	follow := func(f *os.File, keep *tail) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			copyLines(f, keep, env.emit)
			_ = f.Close() // read to its end
		}()
	}
	follow(pipes.errR, p.tail)
	if opts.keepStdout {
		p.stdout = pipes.outR
	} else {
		follow(pipes.outR, nil)
	}
	go func() {
		wg.Wait()
		close(p.logs)
	}()
}

// killGroup kills the sidecar's process group. Without a started child there is
// none.
func (p *process) killGroup() {
	if p.childID > 0 {
		_ = syscall.Kill(-p.childID, syscall.SIGKILL) // ESRCH is the aim
	}
}

// launcherPatience is how long a launcher may take to end a sidecar before it is
// killed itself.
const launcherPatience = 6 * time.Second

// kill ends the process and everything it has started, without waiting.
func (p *process) kill() {
	p.killOnce.Do(func() {
		if p.order == nil {
			p.killGroup()
			return
		}
		_ = p.order.Close() // the order to leave
		go func() {
			select {
			case <-p.ended:
			case <-time.After(launcherPatience):
				_ = p.cmd.Process.Kill() // gone in between is the aim
			}
		}()
	})
}

// finish waits for the process to leave by itself until ctx ends or the patience
// is over, kills it then, and returns once nothing of it is left.
func (p *process) finish(ctx context.Context, patience time.Duration) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.exited:
	case <-ctx.Done():
	case <-t.C:
	}
	p.kill()
	<-p.ended
	if p.conn != nil {
		_ = p.conn.Close() // the client may have closed it
	}
	<-p.logs
}

// exitPatience is how long a failed call waits to learn how the process ended.
const exitPatience = time.Second

// crashError describes the end of the process after a call or a start failed with
// cause. A process that is not gone by then is named as still running.
func (p *process) crashError(cause error) *core.Error {
	t := time.NewTimer(exitPatience)
	defer t.Stop()
	how := "it still runs"
	select {
	case <-p.exited:
		how = p.exit.String()
		select {
		case <-p.logs:
		case <-t.C: // a descendant may hold stderr open
		}
	case <-t.C:
	}
	var b strings.Builder
	fmt.Fprintf(&b, "plugin %s: %s", p.m.ID(), how)
	if cause != nil {
		fmt.Fprintf(&b, ": %v", cause)
	}
	if last := p.tail.String(); last != "" {
		b.WriteString("; last lines of stderr:\n" + last)
	}
	return core.Errorf("", core.CodePluginCrashed, "%s", b.String())
}
