package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// step is one thing that must work. It returns a figure to print, or nothing.
type step struct {
	name string
	run  func(ctx context.Context, s *stage) (figure string, err error)
}

// steps lists them in the order in which they run: each finds the stage as the one
// before has left it.
func steps() []step {
	return []step{
		{"a coordinator and two workers start", startAll},
		{"each worker has a plugin of each mode", loadedPlugins},
		{"beats are steady", steadyBeats},
		{"items are scored by the three plugins", scoredWork},
		{"a killed worker is found, its sidecars end", killedWorker},
		{"a stopped worker is found, fences itself and comes back", stoppedWorker},
		{"a worker drains on SIGTERM", drainedWorker},
		{"the coordinator is killed and restarted", restartedCoordinator},
		{"control: with nobody killed, nobody is found", nobodyKilled},
		{"everything ends in order", endAll},
	}
}

func startAll(ctx context.Context, s *stage) (string, error) {
	if err := s.writeConfig("127.0.0.1:0"); err != nil {
		return "", err
	}
	if err := s.buildPlugins(ctx); err != nil {
		return "", err
	}
	if _, err := s.startCoordinator(ctx); err != nil {
		return "", err
	}
	// A restart must find the same port, so it is fixed from now on.
	if err := s.writeConfig(s.addr); err != nil {
		return "", err
	}
	s.id1, s.id2 = core.NewWorkerID().String(), core.NewWorkerID().String()
	var err error
	if s.w1, err = s.startWorker("w1", s.id1); err != nil {
		return "", err
	}
	if s.w2, err = s.startWorker("w2", s.id2); err != nil {
		return "", err
	}
	for _, id := range []string{s.id1, s.id2} {
		if _, err := s.coord.await(ctx, 0, patience, "worker_registered of "+id, topic(core.TopicWorkerRegistered, id)); err != nil {
			return "", err
		}
		if err := s.awaitReady(ctx, 0, id); err != nil {
			return "", err
		}
	}
	return s.addr, nil
}

// awaitReady waits until the coordinator has heard that a worker is ready.
func (s *stage) awaitReady(ctx context.Context, from int, id string) error {
	_, err := s.coord.await(ctx, from, patience, "that "+id+" is ready", func(ev core.Event) bool {
		return topic(core.TopicWorkerState, id)(ev) && ev.Attrs["to"] == string(core.StateReady)
	})
	return err
}

func loadedPlugins(ctx context.Context, s *stage) (figure string, err error) {
	for _, w := range []*process{s.w1, s.w2} {
		if figure, err = s.pluginsLoaded(ctx, w, 0); err != nil {
			return "", err
		}
	}
	return figure, nil
}

// nobodyFailed reports a failure, or a suspicion, since a place in the events.
func (s *stage) nobodyFailed(from int, except string) error {
	for _, ev := range s.coord.seen(from, topic(core.TopicWorkerFailed, "")) {
		if ev.WorkerID != except {
			return fmt.Errorf("worker %s was declared failed though it lives: %v", ev.WorkerID, ev.Attrs)
		}
	}
	return nil
}

func steadyBeats(ctx context.Context, s *stage) (string, error) {
	from := s.coord.mark()
	if err := pause(ctx, 4*s.interval); err != nil {
		return "", err
	}
	figure := ""
	for _, id := range []string{s.id1, s.id2} {
		beats := len(s.coord.seen(from, topic(core.TopicWorkerHeartbeat, id)))
		if beats < 3 || beats > 8 {
			return "", fmt.Errorf("worker %s beat %d times in 4 intervals", id, beats)
		}
		figure += fmt.Sprintf("%d ", beats)
	}
	if evs := s.coord.seen(from, topic(core.TopicWorkerSuspect, "")); len(evs) > 0 {
		return "", fmt.Errorf("a worker became suspect: %+v", evs[0])
	}
	return figure + "beats in 4 intervals", s.nobodyFailed(from, "")
}

func restartedCoordinator(ctx context.Context, s *stage) (string, error) {
	from := s.coord.mark()
	var err error
	if s.w2, err = s.startWorker("w2", s.id2); err != nil {
		return "", err
	}
	if err := s.awaitReady(ctx, from, s.id2); err != nil {
		return "", err
	}
	if err := s.coord.signal(syscall.SIGKILL); err != nil {
		return "", err
	}
	if _, err := s.coord.exit(ctx, patience); err != nil {
		return "", err
	}
	began := time.Now()
	ev, err := s.startCoordinator(ctx)
	if err != nil {
		return "", err
	}
	if n, _ := ev.Attrs["restored_workers"].(float64); n != 2 {
		return "", fmt.Errorf("it restored %v workers, not 2", ev.Attrs["restored_workers"])
	}
	for _, id := range []string{s.id1, s.id2} {
		if _, err := s.coord.await(ctx, 0, patience, "a beat of "+id, topic(core.TopicWorkerHeartbeat, id)); err != nil {
			return "", err
		}
	}
	figure := fmt.Sprintf("both beat again after %d ms", time.Since(began).Milliseconds())
	// Longer than the window that restored workers have.
	if err := pause(ctx, 4*s.interval); err != nil {
		return "", err
	}
	if err := s.nobodyFailed(0, ""); err != nil {
		return "", err
	}
	rows, err := s.workers(ctx)
	if err != nil {
		return "", err
	}
	for _, id := range []string{s.id1, s.id2} {
		if rows[id].Liveness != core.LivenessAlive {
			return "", fmt.Errorf("worker %s is %s", id, rows[id].Liveness)
		}
	}
	return figure, nil
}

func nobodyKilled(ctx context.Context, s *stage) (string, error) {
	within, cancel := context.WithTimeout(ctx, 3*s.interval)
	defer cancel()
	if figure, err := s.detected(within, s.coord.mark(), s.id1, time.Now()); err == nil {
		return "", fmt.Errorf("the assertion found a dead worker where nobody died: %s", figure)
	}
	return "", ctx.Err()
}

func endAll(ctx context.Context, s *stage) (string, error) {
	for _, p := range []*process{s.w1, s.w2, s.coord} {
		if err := p.signal(syscall.SIGTERM); err != nil {
			return "", err
		}
		code, err := p.exit(ctx, patience)
		if err != nil {
			return "", err
		}
		if code != 0 {
			return "", fmt.Errorf("%s ended with status %d", p.name, code)
		}
	}
	if len(s.coord.seen(0, topic(core.TopicCoordinatorStopped, ""))) != 1 {
		return "", fmt.Errorf("the coordinator printed no coordinator_stopped")
	}
	left, err := strays(s.dir)
	if err != nil {
		return "", err
	}
	if len(left) > 0 {
		return "", fmt.Errorf("the processes %v of the run are left", left)
	}
	return "no process is left, nothing in the socket directories", s.socketsGone()
}
