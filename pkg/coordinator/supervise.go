package coordinator

import (
	"context"
	"log/slog"
	"runtime/debug"
	"sync"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// supervisor runs the parts of a coordinator. Its context ends when the caller's
// does or when any part ends without having been stopped; the parts themselves end
// one by one, in the order in which stop is called.
type supervisor struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	log    *slog.Logger
	parts  map[string]*part

	mu    sync.Mutex // guards first
	first error
}

type part struct {
	cancel context.CancelFunc
	ended  chan struct{}
}

func newSupervisor(ctx context.Context, log *slog.Logger) *supervisor {
	s := &supervisor{log: log, parts: make(map[string]*part)}
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s
}

// start runs a part. It outlives the caller's context until it is stopped.
func (s *supervisor) start(name string, run func(ctx context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.ctx))
	p := &part{cancel: cancel, ended: make(chan struct{})}
	s.parts[name] = p
	go func() {
		defer close(p.ended)
		err := guarded(name, func() error { return run(ctx) })
		switch {
		case err != nil:
			s.fail(core.WithOp("coordinator: "+name, err))
		case s.ctx.Err() == nil:
			s.fail(core.Errorf("coordinator", core.CodeInternal, "the part %q ended by itself", name))
		}
	}()
}

// guarded turns a panic into an error that carries the stack.
func guarded(name string, run func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = core.Errorf(name, core.CodeInternal, "panic: %v\n%s", p, debug.Stack())
		}
	}()
	return run()
}

// fail records the first cause and ends the supervisor's context.
func (s *supervisor) fail(err error) {
	s.mu.Lock()
	if s.first == nil {
		s.first = err
	}
	s.mu.Unlock()
	s.cancel(err)
}

// cause returns why the first part failed, nil after an ordered end.
func (s *supervisor) cause() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.first
}

// stop ends a part and waits for it. A part that was never started is none.
func (s *supervisor) stop(name string) {
	if p := s.parts[name]; p != nil {
		p.cancel()
		<-p.ended
	}
}

// wait waits for a part that was told to end in its own way.
func (s *supervisor) wait(name string) {
	p := s.parts[name]
	<-p.ended
	p.cancel()
}
