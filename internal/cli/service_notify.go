package cli

import (
	"context"
	"time"

	"github.com/rollout-substrate/rollout/internal/sdnotify"
)

// statusPause is how often the status is compared with the one told last.
const statusPause = 5 * time.Second

// tellManager tells the service manager that the process is ready, what it does, that
// it lives and that it stops, until ctx ends. stopping is closed when an ordered end
// begins. A watchdog is told only while the main loop goes round, so that a process
// that hangs is restarted although this goroutine still runs.
func (s *service) tellManager(ctx context.Context, stopping <-chan struct{}, r served) {
	if !s.manager.Enabled() {
		return
	}
	pause := statusPause
	if w := s.manager.WatchdogInterval(); w > 0 {
		pause = min(pause, w/2)
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	defer s.tell(sdnotify.Stopping)
	ready, m := r.process.Ready(), &managed{s: s, r: r}
	m.tell()
	for {
		select {
		case <-ready:
			ready = nil
			m.tell(sdnotify.Ready)
		case <-stopping:
			stopping = nil
			m.tell(sdnotify.Stopping)
		case <-tick.C:
			m.watch()
		case <-ctx.Done():
			return
		}
	}
}

// managed is what was told to the manager. It belongs to one goroutine.
type managed struct {
	s      *service
	r      served
	status string
	stuck  bool // it was logged that the main loop hangs
}

// tell sends states, and the status where it has changed.
func (m *managed) tell(states ...string) {
	if status := m.r.status(); status != m.status {
		m.status = status
		states = append(states, sdnotify.Status(status))
	}
	if len(states) > 0 {
		m.s.tell(states...)
	}
}

// watch feeds the watchdog while the main loop goes round.
func (m *managed) watch() {
	err := m.r.process.Alive()
	switch {
	case err != nil && isClosed(m.r.process.Ready()):
		if !m.stuck {
			m.s.log.Error("the main loop hangs, the service manager's watchdog is no longer told that it lives", "err", err)
		}
		m.stuck = true
		return
	case m.s.manager.WatchdogInterval() > 0:
		m.stuck = false
		m.tell(sdnotify.Watchdog)
	default:
		m.tell()
	}
}

// tell sends states to the manager. What does not arrive is logged: the manager then
// acts as on a process that says nothing.
func (s *service) tell(states ...string) {
	if err := s.manager.Send(states...); err != nil {
		s.log.Warn("the service manager was not told", "states", states, "err", err)
	}
}
