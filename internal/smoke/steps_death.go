package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// detected waits until a worker is declared failed and checks that this came within
// 2 H of its death, and that nobody else was. It is the assertion that the last step
// turns against itself.
func (s *stage) detected(ctx context.Context, from int, id string, died time.Time) (string, error) {
	ev, err := s.coord.await(ctx, from, 2*s.interval+patience, "worker_failed of "+id, topic(core.TopicWorkerFailed, id))
	if err != nil {
		return "", err
	}
	took := ev.Time.Sub(died)
	if took > 2*s.interval {
		return "", fmt.Errorf("worker %s was declared failed %v after its death, allowed are 2 H = %v", id, took, 2*s.interval)
	}
	if took < 0 {
		return "", fmt.Errorf("worker %s was declared failed %v before its death", id, -took)
	}
	if n := len(s.coord.seen(from, topic(core.TopicWorkerFailed, id))); n != 1 {
		return "", fmt.Errorf("worker %s was declared failed %d times", id, n)
	}
	return fmt.Sprintf("after %d ms, 2 H = %d ms", took.Milliseconds(), (2 * s.interval).Milliseconds()), s.nobodyFailed(from, id)
}

func killedWorker(ctx context.Context, s *stage) (string, error) {
	sidecars, err := descendants(s.w1.cmd.Process.Pid)
	if err != nil {
		return "", err
	}
	if len(sidecars) < 2 {
		return "", fmt.Errorf("the worker has the processes %v, a launcher and a sidecar were expected", sidecars)
	}
	from, died := s.coord.mark(), time.Now()
	if err := s.w1.signal(syscall.SIGKILL); err != nil {
		return "", err
	}
	if err := gone(ctx, sidecars, died.Add(time.Second)); err != nil {
		return "", fmt.Errorf("one second after its worker's death: %w", err)
	}
	ended := time.Since(died)
	figure, err := s.detected(ctx, from, s.id1, died)
	if err != nil {
		return "", err
	}
	figure += fmt.Sprintf("; %d processes of its plugins ended after %d ms", len(sidecars), ended.Milliseconds())
	if _, err := s.w1.exit(ctx, patience); err != nil {
		return "", err
	}
	from = s.coord.mark()
	if s.w1, err = s.startWorker("w1", s.id1); err != nil {
		return "", err
	}
	if _, err := s.coord.await(ctx, from, patience, "worker_recovered", topic(core.TopicWorkerRecovered, s.id1)); err != nil {
		return "", err
	}
	return figure, s.awaitReady(ctx, from, s.id1)
}

func stoppedWorker(ctx context.Context, s *stage) (string, error) {
	before, err := s.workers(ctx)
	if err != nil {
		return "", err
	}
	from, died := s.coord.mark(), time.Now()
	if err := s.w1.signal(syscall.SIGSTOP); err != nil {
		return "", err
	}
	figure, err := s.detected(ctx, from, s.id1, died)
	if err != nil {
		return "", err
	}
	mine := s.w1.mark()
	from = s.coord.mark()
	if err := s.w1.signal(syscall.SIGCONT); err != nil {
		return "", err
	}
	if _, err := s.w1.await(ctx, mine, patience, "worker_fenced", topic(core.TopicWorkerFenced, s.id1)); err != nil {
		return "", err
	}
	ev, err := s.coord.await(ctx, from, patience, "worker_recovered", topic(core.TopicWorkerRecovered, s.id1))
	if err != nil {
		return "", err
	}
	epoch, _ := ev.Attrs["epoch"].(float64)
	if uint64(epoch) <= before[s.id1].Epoch {
		return "", fmt.Errorf("it came back with epoch %v, before it had %d", ev.Attrs["epoch"], before[s.id1].Epoch)
	}
	return figure, s.awaitReady(ctx, from, s.id1)
}

func drainedWorker(ctx context.Context, s *stage) (string, error) {
	sidecars, err := descendants(s.w2.cmd.Process.Pid)
	if err != nil {
		return "", err
	}
	from := s.coord.mark()
	if err := s.w2.signal(syscall.SIGTERM); err != nil {
		return "", err
	}
	if _, err := s.coord.await(ctx, from, patience, "worker_deregistered", topic(core.TopicWorkerDeregistered, s.id2)); err != nil {
		return "", err
	}
	code, err := s.w2.exit(ctx, patience)
	if err != nil {
		return "", err
	}
	if code != 0 {
		return "", fmt.Errorf("the worker ended with status %d", code)
	}
	if n := len(s.w2.seen(0, topic(core.TopicPluginUnloaded, ""))); n != len(s.plugins()) {
		return "", fmt.Errorf("the worker told the end of %d plugins, it had %d", n, len(s.plugins()))
	}
	if err := gone(ctx, sidecars, time.Now()); err != nil {
		return "", fmt.Errorf("behind a drained worker %w", err)
	}
	// Had it only died, it would be declared failed by now.
	if err := pause(ctx, 2*s.interval); err != nil {
		return "", err
	}
	return "exit 0", s.nobodyFailed(0, s.id1)
}
