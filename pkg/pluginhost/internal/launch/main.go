//go:build linux

package launch

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"golang.org/x/sys/unix"
)

// Main runs a launcher on the descriptors that the package comment lists and
// returns its exit status: 0 whenever it has done its work, whatever became of
// the sidecar.
func Main() int {
	// The worker's terminal and service manager address the worker, which tells
	// the launcher by its pipe.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	// What the worker itself was started with, and would pass on unawares, ends
	// here. A kernel before 5.11 cannot do that and is spared no sidecar for it.
	_ = unix.CloseRange(FDStream, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	for fd := FDStream; fd <= FDLock; fd++ {
		syscall.CloseOnExec(fd)
	}
	var spec Spec
	dec := json.NewDecoder(os.Stdin)
	if err := dec.Decode(&spec); err != nil {
		fmt.Fprintln(os.Stderr, "launch: this command is for a worker's use; it found no specification on stdin:", err)
		return 2
	}
	orders := make(chan struct{})
	go func() {
		// Whatever ends the pipe, an error included, means that the worker is gone.
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(orders)
	}()
	l := &launcher{spec: spec, out: json.NewEncoder(os.Stdout)}
	return l.run(orders, term)
}

// launcher is the state of one launcher process.
type launcher struct {
	spec Spec
	out  *json.Encoder
	lim  limits
	pid  int
}

func (l *launcher) run(orders <-chan struct{}, term <-chan os.Signal) int {
	defer l.remove()
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return l.failed(core.CodeUnsupported, fmt.Errorf("become subreaper: %w", err))
	}
	started, err := l.start()
	if err != nil {
		return l.failed(core.CodeOf(err), err)
	}
	l.report(Report{Started: started})

	exited := make(chan syscall.WaitStatus, 1)
	reaped := make(chan struct{})
	go reap(l.pid, exited, reaped)
	hungry, stop := l.lim.watchMemory()
	var reason string
	select {
	case <-orders:
	case <-term:
	case reason = <-hungry:
	case ws := <-exited:
		l.reportExit(ws, l.lim.oomReason())
	}
	stop()
	l.kill(reaped)
	select {
	case ws := <-exited:
		l.reportExit(ws, reason)
	default: // reported above, or not to be killed
	}
	l.lim.remove()
	return 0
}

func (l *launcher) reportExit(ws syscall.WaitStatus, reason string) {
	exit := Exit{Code: ws.ExitStatus(), Reason: reason}
	if ws.Signaled() {
		exit = Exit{Code: -1, Signal: ws.Signal().String(), Reason: reason}
	}
	l.report(Report{Exit: &exit})
}

func (l *launcher) failed(code core.Code, err error) int {
	if code == core.CodeUnknown {
		code = core.CodePluginCrashed
	}
	l.report(Report{Failed: &Failed{Code: code, Message: err.Error()}})
	return 0
}

// report writes one line to the worker. A worker that is gone has closed the
// order pipe as well, which is where its end is noticed.
func (l *launcher) report(r Report) { _ = l.out.Encode(r) }

// remove deletes the run directory and what else the worker named.
func (l *launcher) remove() {
	for _, dir := range l.spec.Remove {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "launch: remove run directory:", err)
		}
	}
}

// reap waits for every child, own or inherited, until there is none.
func reap(pid int, exited chan<- syscall.WaitStatus, reaped chan<- struct{}) {
	defer close(reaped)
	for {
		var ws syscall.WaitStatus
		got, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return
		case got == pid:
			exited <- ws
		}
	}
}

// killFor bounds how long a launcher fights with descendants that multiply.
const killFor = 5 * time.Second

// kill ends the group and every descendant, and returns once all are reaped.
func (l *launcher) kill(reaped <-chan struct{}) {
	l.lim.freeze()
	deadline := time.Now().Add(killFor)
	for time.Now().Before(deadline) {
		// ESRCH is the aim.
		_ = syscall.Kill(-l.pid, syscall.SIGKILL)
		for _, pid := range Descendants(os.Getpid()) {
			_ = syscall.Kill(pid, syscall.SIGKILL) // as above
		}
		select {
		case <-reaped:
			return
		case <-time.After(2 * time.Millisecond):
		}
	}
}
