package pluginhost

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"golang.org/x/sync/semaphore"
)

// generation is one start of a plugin's code: its manifest and its instances.
type generation struct {
	p     *plugin
	m     core.Manifest
	start time.Duration // load, init and preflight of all instances
	seats []*seat
	slots *semaphore.Weighted // calls at once

	refs    atomic.Int64  // calls under way, and one for being current
	drained chan struct{} // closed when refs reach zero

	closing context.Context // ends with the generation's life
	close   context.CancelFunc
	watched sync.WaitGroup // the seats' supervisors
}

// seat is the place of one instance, which may die and be replaced.
type seat struct {
	g     *generation
	load  atomic.Int64 // calls given to it
	state atomic.Pointer[seatState]
}

// seatState is what a seat holds now: an instance, or nothing and the reason.
type seatState struct {
	inst    instance
	err     error         // without instance: what calls fail with; nil: they wait
	changed chan struct{} // closed when another state follows
}

func (g *generation) acquire() bool {
	for {
		n := g.refs.Load()
		if n == 0 {
			return false
		}
		if g.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

func (g *generation) release() {
	if g.refs.Add(-1) == 0 {
		close(g.drained)
	}
}

// retire gives up the reference of being current; drained follows the last call.
func (g *generation) retire() { g.release() }

// seat picks the instance with the fewest calls and counts one more for it.
func (g *generation) seat() *seat {
	best := g.seats[0]
	if len(g.seats) > 1 {
		least := best.load.Load()
		for _, s := range g.seats[1:] {
			if n := s.load.Load(); n < least {
				best, least = s, n
			}
		}
	}
	best.load.Add(1)
	return best
}

// instance returns the seat's instance, waiting for a replacement until ctx ends.
func (s *seat) instance(ctx context.Context) (instance, error) {
	for {
		st := s.state.Load()
		if st.inst != nil {
			select {
			case <-st.inst.done(): // the supervisor is about to see it too
			default:
				return st.inst, nil
			}
		}
		if st.err != nil {
			return nil, st.err
		}
		select {
		case <-st.changed:
		case <-ctx.Done():
			return nil, core.Wrap("", core.CodeUnavailable, ctx.Err())
		case <-s.g.closing.Done():
			return nil, core.Errorf("", core.CodeNotFound, "the plugin is being unloaded")
		}
	}
}

func (s *seat) set(inst instance, err error) {
	old := s.state.Swap(&seatState{inst: inst, err: err, changed: make(chan struct{})})
	if old != nil {
		close(old.changed)
	}
}

// startGeneration starts as many instances as the mode asks for. On failure none
// of them stays.
func (p *plugin) startGeneration(ctx context.Context, m core.Manifest, reload bool) (*generation, error) {
	ctx, cancel := withStartTimeout(ctx, m)
	defer cancel()
	g := &generation{p: p, m: m, drained: make(chan struct{})}
	g.closing, g.close = context.WithCancel(context.Background())
	g.refs.Store(1)
	n := 1
	if m.Mode == core.ModePython {
		n = max(m.Runtime.Concurrency, 1)
	}
	began := time.Now()
	for i := range n {
		inst, err := p.startInstance(ctx, m, reload && i == 0)
		if err != nil {
			g.retire()
			g.stop(expired())
			return nil, err
		}
		s := &seat{g: g}
		s.set(inst, nil)
		g.seats = append(g.seats, s)
	}
	g.start = time.Since(began)
	g.slots = semaphore.NewWeighted(g.depth())
	for _, s := range g.seats {
		inst := s.state.Load().inst
		g.watched.Go(func() { s.supervise(inst) })
	}
	return g, nil
}

// depth returns how many calls the generation may have in hand at once.
func (g *generation) depth() int64 {
	if q, ok := g.seats[0].state.Load().inst.(selfQueuing); ok {
		return int64(q.queueDepth() * len(g.seats))
	}
	return int64(max(g.m.Runtime.Concurrency, 1))
}

// withStartTimeout bounds a start by the manifest and says so in its cause.
func withStartTimeout(ctx context.Context, m core.Manifest) (context.Context, context.CancelFunc) {
	if m.Runtime.StartTimeout <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, m.Runtime.StartTimeout,
		core.Errorf("", core.CodeDeadlineExceeded, "not ready within start_timeout = %v: %w", m.Runtime.StartTimeout, context.DeadlineExceeded))
}

func (p *plugin) startInstance(ctx context.Context, m core.Manifest, reload bool) (instance, error) {
	env := p.host.env
	env.reload = reload
	info := core.PluginInfo{Name: m.Name, ID: m.ID(), Version: m.Version, Kind: m.Kind, TraitID: m.TraitID, Mode: m.Mode, Digest: m.Digest}
	env.emit = func(level core.EventLevel, line string) {
		p.host.cfg.Events(core.PluginEvent{Level: level, Line: line, Info: info})
	}
	inst, err := starterFor(m)(ctx, m, env)
	if err != nil {
		if cause := context.Cause(ctx); ctx.Err() != nil && core.CodeOf(err) == core.CodeDeadlineExceeded {
			err = core.Errorf("", core.CodeDeadlineExceeded, "%w: %w", cause, err)
		}
		return nil, err
	}
	return inst, nil
}

// stop ends the generation's supervision and instances, and returns when both are
// gone. No new call can reach it; calls that are still under way when ctx ends are
// cut off.
func (g *generation) stop(ctx context.Context) error {
	select {
	case <-g.drained:
	case <-ctx.Done():
	}
	g.close()
	g.watched.Wait()
	var errs []error
	for _, s := range g.seats {
		if st := s.state.Load(); st.inst != nil {
			errs = append(errs, st.inst.stop(ctx))
		}
	}
	return errors.Join(errs...)
}

// supervise replaces the seat's instance whenever it dies, until the generation
// ends.
func (s *seat) supervise(inst instance) {
	g := s.g
	for {
		select {
		case <-inst.done():
		case <-g.closing.Done():
			return
		}
		if g.closing.Err() != nil {
			return
		}
		cause := inst.exit()
		wait, looping := g.p.crashed()
		var fail error
		if looping {
			fail = core.Errorf("", core.CodePluginCrashed, "the plugin crashes again and again, next start in %v: %w", wait, cause).
				WithRetry(core.RetryHint{Kind: core.RetryAfter, After: wait})
		}
		s.set(nil, fail)
		g.p.emitCrash(cause, wait, looping)
		if err := inst.stop(expired()); err != nil {
			g.p.host.cfg.Logger.Warn("stop of a dead plugin failed", "plugin_id", g.m.ID(), "err", err)
		}
		if inst = s.replace(wait); inst == nil {
			return
		}
	}
}

// replace starts a new instance after a wait, again and again until one starts.
// It returns nil when the generation ends first.
func (s *seat) replace(wait time.Duration) instance {
	g := s.g
	for {
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-g.closing.Done():
			t.Stop()
			return nil
		}
		ctx, cancel := withStartTimeout(g.closing, g.m)
		began := time.Now()
		inst, err := g.p.startInstance(ctx, g.m, false)
		cancel()
		if err == nil {
			s.set(inst, nil)
			g.p.emitRestart(time.Since(began))
			return inst
		}
		if g.closing.Err() != nil {
			return nil
		}
		var looping bool
		wait, looping = g.p.crashed()
		if looping {
			s.set(nil, core.Errorf("", core.CodePluginCrashed, "the plugin does not start again, next try in %v: %w", wait, err).
				WithRetry(core.RetryHint{Kind: core.RetryAfter, After: wait}))
		}
		g.p.emitCrash(err, wait, looping)
	}
}
