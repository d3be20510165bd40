package events

import (
	"bytes"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	chunkSize  = 64 << 10 // bytes handed to the sink in one write, unless one line is longer
	maxSpare   = 16 << 10 // events; a longer queue was a burst and is not kept for reuse
	retryFirst = 50 * time.Millisecond
	retryLast  = time.Second
)

// run is the writing goroutine. It ends when the emitter is closed and the queue
// is written, or writing was given up.
func (e *Emitter) run() {
	defer close(e.finished)
	w := &sink{e: e}
	var spare []item
	for {
		batch := e.take(spare)
		if len(batch) == 0 {
			select {
			case <-e.wake:
			case <-e.closing:
				if batch = e.take(nil); len(batch) == 0 {
					return
				}
			}
		}
		w.writeAll(batch)
		clear(batch) // release attrs before the slice is used again
		if spare = batch; cap(spare) > maxSpare {
			spare = nil
		}
	}
}

// sink writes batches. It belongs to the writing goroutine.
type sink struct {
	e    *Emitter
	buf  bytes.Buffer
	ends []int // ends[i]: where line i ends in buf
	gone error // set once nothing more can be written
}

// writeAll writes a batch in chunks and answers every event of it.
func (s *sink) writeAll(batch []item) {
	for len(batch) > 0 {
		n := s.fillChunk(batch)
		written := s.writeChunk()
		s.settle(batch[:n], written)
		batch = batch[n:]
	}
}

// fillChunk encodes the head of batch and returns how many events it took.
func (s *sink) fillChunk(batch []item) int {
	s.buf.Reset()
	s.ends = s.ends[:0]
	for _, it := range batch {
		AppendLine(&s.buf, it.ev)
		s.ends = append(s.ends, s.buf.Len())
		if s.buf.Len() >= chunkSize {
			break
		}
	}
	return len(s.ends)
}

// writeChunk writes buf and returns how many bytes got out: all, unless the sink
// is gone or writing was given up.
func (s *sink) writeChunk() int {
	if s.gone != nil {
		return 0
	}
	pause, at, data := retryFirst, 0, s.buf.Bytes()
	for {
		n, err := s.e.out.Write(data[at:])
		at += n
		if err == nil && at < len(data) {
			err = io.ErrShortWrite
		}
		if err == nil {
			return at
		}
		if n > 0 {
			pause = retryFirst
		}
		if final(err) || !s.e.wait(pause) {
			s.gone = err
			s.e.sinkErr = err
			return at
		}
		pause = min(2*pause, retryLast)
	}
}

// settle answers the events of one chunk of which the first written bytes are out.
func (s *sink) settle(items []item, written int) {
	for i, it := range items {
		ok := s.ends[i] <= written
		if !ok {
			s.e.unwritten++
		}
		switch {
		case it.done == nil:
		case ok:
			it.done(nil)
		case final(s.gone):
			it.done(core.Errorf("events: emit", core.CodeBroken, "the event stream has no reader: %w", s.gone))
		default:
			it.done(errClosed())
		}
	}
}

// wait pauses before a retry and reports false when writing was given up.
func (e *Emitter) wait(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-e.abandon:
		return false
	}
}

// final reports whether the sink can never take a byte again.
func final(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.EBADF) ||
		errors.Is(err, os.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
}
