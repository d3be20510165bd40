package transport

import (
	"sync"

	"golang.org/x/time/rate"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// workerState is what all connections of one worker share. It lives as long as one
// of them does.
type workerState struct {
	limit *rate.Limiter // nil: no limit
	conns int           // guarded by connTable.mu

	// beatMu orders the beginning and the end of heartbeat streams: an end is
	// reported before the next stream's first beat is taken, or not at all. It is
	// held over core.Beats.Disconnected, which does no input or output.
	beatMu sync.Mutex
	stream uint64 // number of the newest heartbeat stream, guarded by beatMu
}

// openStream makes a new heartbeat stream the worker's current one.
func (w *workerState) openStream() uint64 {
	w.beatMu.Lock()
	defer w.beatMu.Unlock()
	w.stream++
	return w.stream
}

// closeStream calls f when no newer stream has taken over from n.
func (w *workerState) closeStream(n uint64, f func()) {
	w.beatMu.Lock()
	defer w.beatMu.Unlock()
	if w.stream == n {
		f()
	}
}

// connTable counts the open connections and finds those of a certificate.
type connTable struct {
	limits Limits

	mu      sync.Mutex // guards the fields below; nothing is called while it is held
	conns   map[*connInfo]struct{}
	workers map[core.WorkerID]*workerState
	denied  map[string]struct{} // serials
}

func newConnTable(l Limits, denied []string) *connTable {
	t := &connTable{
		limits:  l,
		conns:   map[*connInfo]struct{}{},
		workers: map[core.WorkerID]*workerState{},
		denied:  map[string]struct{}{},
	}
	for _, s := range denied {
		t.denied[s] = struct{}{}
	}
	return t
}

// add counts a connection and gives it its worker's state.
func (t *connTable) add(info *connInfo) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.denied[info.caller.Serial]; ok {
		return errDenied
	}
	if len(t.conns) >= t.limits.Connections {
		return core.Errorf("", core.CodeThrottled, "%d connections are open, no more are taken", len(t.conns))
	}
	if info.caller.Role == RoleWorker {
		w := t.workers[info.caller.Worker]
		if w == nil {
			w = &workerState{}
			if t.limits.WorkerPerSecond > 0 {
				w.limit = rate.NewLimiter(rate.Limit(t.limits.WorkerPerSecond), t.limits.WorkerBurst)
			}
			t.workers[info.caller.Worker] = w
		}
		if w.conns >= t.limits.WorkerConnections {
			return core.Errorf("", core.CodeThrottled, "worker %s has %d connections open, no more are taken", info.caller.Worker, w.conns)
		}
		w.conns++
		info.worker = w
	}
	t.conns[info] = struct{}{}
	return nil
}

// remove forgets a connection. Removing it again does nothing.
func (t *connTable) remove(info *connInfo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.conns[info]; !ok {
		return
	}
	delete(t.conns, info)
	if w := info.worker; w != nil {
		if w.conns--; w.conns == 0 {
			delete(t.workers, info.caller.Worker)
		}
	}
}

// deny refuses a serial from now on and returns the connections that show it.
func (t *connTable) deny(serial string) []*connInfo {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.denied[serial] = struct{}{}
	var out []*connInfo
	for c := range t.conns {
		if c.caller.Serial == serial {
			out = append(out, c)
		}
	}
	return out
}

// isDenied reports whether a serial is refused.
func (t *connTable) isDenied(serial string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, ok := t.denied[serial]
	return ok
}

// count returns the number of open connections.
func (t *connTable) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.conns)
}
