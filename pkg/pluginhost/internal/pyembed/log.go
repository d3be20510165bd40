package pyembed

import (
	"bufio"
	"os"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// logDrain bounds the wait for lines that were written before the end.
const logDrain = 100 * time.Millisecond

// log is the pipe through which an instance's printed lines come out of Python.
type log struct {
	r, w *os.File
	done chan struct{} // closed when every line has been handed on
}

// newLog starts handing lines to emit. Each record of host.py is a tag, o for
// stdout or e for stderr, then a line.
func newLog(emit func(line string)) (*log, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, core.Wrap(op, core.CodeExhausted, err)
	}
	l := &log{r: r, w: w, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		lines := bufio.NewScanner(r)
		for lines.Scan() {
			if record := lines.Text(); record != "" && emit != nil {
				emit(strings.TrimSuffix(record[1:], "\r"))
			}
		}
	}()
	return l, nil
}

// fd is the descriptor that Python writes to. It blocks, as Python expects.
func (l *log) fd() uintptr { return l.w.Fd() }

// close hands on what was written and ends the pipe. A process that Python has
// forked may hold the other end for ever, hence the bound.
func (l *log) close() {
	l.w.Close() // nothing is buffered here
	if err := l.r.SetReadDeadline(time.Now().Add(logDrain)); err == nil {
		<-l.done
	}
	l.r.Close() // read only
}
