package pyembed

import (
	"runtime"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/framed"
)

// keepMax bounds the payload buffer, and the last result, that an idle thread
// keeps, in bytes.
const keepMax = 64 << 10

// worker is the state of the goroutine that owns an instance's thread.
type worker struct {
	*Instance
	th   thread
	buf  []byte // the payload of the current run
	seq  uint64 // of the last run
	held bool   // the interpreter's lock is held
	big  bool   // the last result is worth dropping
	down bool   // the plugin's shutdown has run
}

// loop runs what is queued until the instance ends. It never unlocks its thread, so
// that the thread ends with it and takes along whatever Python code has left there.
func (i *Instance) loop(newThread func() (thread, error), log *log, ready chan<- error) {
	defer close(i.ended)
	defer log.close()
	runtime.LockOSThread()
	th, err := newThread()
	if err != nil {
		ready <- err
		return
	}
	i.mu.Lock()
	i.thread = th
	i.mu.Unlock()
	ready <- nil
	w := &worker{Instance: i, th: th}
	for w.next() {
	}
	w.finish()
}

// next waits for a request and runs it and all that have come meanwhile. It
// reports false when the thread should end.
func (w *worker) next() bool {
	var r *request
	select {
	case <-w.gone:
		return false
	case <-w.quit:
		return false
	case r = <-w.queue:
	}
	for r != nil {
		// Whoever ends the instance looks at these two after it has set ending.
		w.current.Store(r)
		following := w.poll()
		w.upcoming.Store(following)
		if !w.ending.Load() {
			w.serve(r, following != nil)
		}
		if w.ending.Load() {
			w.refuse(r, following)
			return false
		}
		r = following
	}
	w.current.Store(nil)
	if w.held {
		w.th.release()
		w.held = false
	}
	if w.big {
		w.th.drop()
		w.big = false
	}
	return true
}

// poll takes a request that somebody waits for, if there is one.
func (w *worker) poll() *request {
	for {
		select {
		case r := <-w.queue:
			if r.waiting() {
				return r
			}
		default:
			return nil
		}
	}
}

// serve runs one request and answers it.
func (w *worker) serve(r *request, more bool) {
	var ok bool
	if cap(w.buf) > keepMax {
		w.buf = nil
	}
	w.buf, ok = r.take(w.seq+1, w.buf[:0])
	if !ok {
		return
	}
	if w.down {
		r.answer(result{err: errClosed()})
		return
	}
	w.seq++
	w.down = r.which == runControl && r.method == opStop
	which := r.which
	if which == runLoad {
		which, more = runControl, false
	}
	w.running.Store(w.seq)
	out := w.th.run(which, r.method, w.buf, w.seq, more)
	w.running.Store(0)
	w.held = out.held
	w.big = len(out.bytes) > keepMax

	var res result
	switch {
	case out.failed:
		res.err = framed.ParseError(out.bytes)
	case r.which == runLoad:
		res.err = w.th.bind()
	case len(out.bytes) <= maxBatchResult:
		res.bytes = append([]byte(nil), out.bytes...)
	default:
		res.err = core.Errorf("", core.CodeTooLarge, "the result has %d bytes", len(out.bytes))
	}
	r.answer(res)
}

// finish lets the plugin's object go and frees the thread state. Calls that still
// wait are told.
func (w *worker) finish() {
	w.end(errClosed())
	if out := w.th.run(runControl, opDrop, nil, w.seq+1, false); out.held {
		w.th.release()
	}
	w.mu.Lock()
	w.over = true
	w.mu.Unlock()
	w.interrupts.Wait()
	w.th.end()
}
