package pyembed

import (
	"sync"
	"sync/atomic"
)

// request is one run that waits in the queue of an instance.
type request struct {
	which   which
	method  string
	payload []byte      // the caller's, until it leaves
	done    chan result // capacity 1: who answers never waits for a caller

	answered atomic.Bool // done has been sent to

	mu    sync.Mutex // guards what follows
	begun bool       // the thread has taken it, and has copied payload
	left  bool       // the caller is gone
	seq   uint64     // the run, once begun
}

// result is what a run came to. bytes belong to whoever receives it.
type result struct {
	bytes []byte
	err   error
}

// answer gives the caller its result, unless it was given one.
func (r *request) answer(res result) {
	if r.answered.CompareAndSwap(false, true) {
		r.done <- res
	}
}

// newRequest takes a used request where there is one.
func (i *Instance) newRequest(w which, method string, payload []byte) *request {
	r, ok := i.requests.Get().(*request)
	if !ok {
		r = &request{done: make(chan result, 1)}
	}
	r.which, r.method, r.payload = w, method, payload
	return r
}

// recycle keeps a request whose answer was received. Whoever ends the instance may
// still hold it and answer its next use with the end, which is right then.
func (i *Instance) recycle(r *request) {
	r.payload = nil
	r.answered.Store(false)
	r.begun, r.left, r.seq = false, false, 0
	i.requests.Put(r)
}

// abandon tells the thread that nobody waits, and the caller whether its run has
// begun and which it is.
func (r *request) abandon() (seq uint64, begun bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.left = true
	r.payload = nil
	return r.seq, r.begun
}

// waiting tells whether somebody still wants the answer.
func (r *request) waiting() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.left
}

// take begins the run: payload is appended to buf, because the caller may leave
// and change it. It reports false when the caller has left.
func (r *request) take(seq uint64, buf []byte) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.left {
		return buf, false
	}
	r.begun, r.seq = true, seq
	return append(buf, r.payload...), true
}
