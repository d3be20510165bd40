package transport

import "sync"

// inflight counts calls and tells when the last has ended.
type inflight struct {
	mu       sync.Mutex // guards the fields below
	n        int
	draining bool
	idle     chan struct{} // closed when draining and n is 0
}

func newInflight() *inflight { return &inflight{idle: make(chan struct{})} }

// begin counts a call, and reports false when no more are taken.
func (f *inflight) begin() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.draining {
		return false
	}
	f.n++
	return true
}

// end counts a call that ended.
func (f *inflight) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n--; f.draining && f.n == 0 {
		close(f.idle)
	}
}

// drain takes no more calls and returns a channel that closes once all have ended.
func (f *inflight) drain() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.draining {
		f.draining = true
		if f.n == 0 {
			close(f.idle)
		}
	}
	return f.idle
}
