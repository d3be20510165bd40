package cabi

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Code is what a plugin calls: a [*Library], or a stand-in in tests.
type Code interface {
	// Init takes the configuration, a JSON object, before anything else is called.
	Init(config []byte) error
	// Preflight fails when the code cannot work.
	Preflight() error
	// Call runs one method and keeps neither of its arguments.
	Call(method string, payload []byte) ([]byte, error)
	// CallBatch answers each payload, in order, or fails as a whole.
	CallBatch(method string, payloads [][]byte) ([]core.CallResult, error)
	// HasBatch tells whether CallBatch can be used.
	HasBatch() bool
	// Shutdown runs once, after the last call.
	Shutdown()
}

var _ Code = (*Library)(nil)

// Plugin puts the rules of plugin calls around code that cannot be interrupted.
// Every method may be called by many goroutines at once.
type Plugin struct {
	code  Code
	slots chan struct{} // one element for each call that runs; capacity: calls at once

	copies sync.Pool // of *[]byte: payloads of calls that may outlive their caller

	poisoned   chan struct{} // closed at the first call that outlived its deadline
	poisonOnce sync.Once
	closed     chan struct{} // closed by the first Stop
	stopOnce   sync.Once
	stopErr    error // written inside stopOnce
}

// keptMax bounds the payload copies that are kept for the next call, in bytes.
const keptMax = 1 << 20

// Start initialises and preflights code and returns it as a plugin that takes
// parallel calls at once (1 unless the code is thread-safe). When ctx ends first,
// the code stays behind in its thread, since C cannot be stopped.
func Start(ctx context.Context, code Code, config []byte, parallel int) (*Plugin, error) {
	p := &Plugin{
		code:     code,
		slots:    make(chan struct{}, max(parallel, 1)),
		poisoned: make(chan struct{}),
		closed:   make(chan struct{}),
	}
	config = slices.Clone(config)
	_, err := p.run(ctx, func() (answer, error) {
		if err := code.Init(config); err != nil {
			return answer{}, core.WithOp("init", err)
		}
		return answer{}, core.WithOp("preflight", code.Preflight())
	})
	if err != nil {
		return nil, err
	}
	return p, nil
}

// answer is what a piece of C work brought: a result, or those of a batch.
type answer struct {
	result  []byte
	results []core.CallResult
}

// Call runs one method. Without a deadline it runs on this goroutine. With one it
// returns when ctx ends; a call that is still running at its deadline poisons the
// plugin.
func (p *Plugin) Call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		return p.CallHere(ctx, method, payload)
	}
	// The caller may take its payload back before C has returned.
	kept, _ := p.copies.Get().(*[]byte)
	if kept == nil {
		kept = new([]byte)
	}
	*kept = append((*kept)[:0], payload...)
	a, err := p.run(ctx, func() (answer, error) {
		out, err := p.code.Call(method, *kept)
		if cap(*kept) <= keptMax {
			p.copies.Put(kept)
		}
		return answer{result: out}, err
	})
	return a.result, err
}

// CallHere runs one method on this goroutine. The end of ctx ends the waiting for
// the call's turn, never the call, and poisons nothing.
func (p *Plugin) CallHere(ctx context.Context, method string, payload []byte) ([]byte, error) {
	if err := p.enter(ctx); err != nil {
		return nil, err
	}
	defer p.leave()
	return p.code.Call(method, payload)
}

// enter waits for a slot.
func (p *Plugin) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return ended(ctx)
	}
	select {
	case p.slots <- struct{}{}:
	default:
		select {
		case p.slots <- struct{}{}:
		case <-p.poisoned:
			return errPoisoned()
		case <-p.closed:
			return core.Errorf("", core.CodeClosed, "the plugin is shut down")
		case <-ctx.Done():
			return ended(ctx)
		}
	}
	select {
	case <-p.poisoned:
		p.leave()
		return errPoisoned()
	default:
		return nil
	}
}

func (p *Plugin) leave() { <-p.slots }

// pending is a piece of C work that its caller waits for.
type pending struct {
	done     chan struct{} // closed once the fields below are set
	answer   answer
	err      error
	finished atomic.Bool
}

// run does work in a goroutine of its own and returns when that is done or ctx
// ends, whichever is first.
func (p *Plugin) run(ctx context.Context, work func() (answer, error)) (answer, error) {
	if err := p.enter(ctx); err != nil {
		return answer{}, err
	}
	w := &pending{done: make(chan struct{})}
	go func() {
		w.answer, w.err = work()
		w.finished.Store(true)
		p.leave()
		close(w.done)
	}()
	select {
	case <-w.done:
		return w.answer, w.err
	case <-ctx.Done():
		return p.abandon(ctx, w)
	}
}

// abandon gives up waiting. A deadline that has passed poisons the plugin at once; a
// cancelled caller leaves the work the time that it was given.
func (p *Plugin) abandon(ctx context.Context, w *pending) (answer, error) {
	select {
	case <-w.done:
		return w.answer, w.err
	default:
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		p.poison()
	} else if deadline, ok := ctx.Deadline(); ok {
		time.AfterFunc(time.Until(deadline), func() {
			if !w.finished.Load() {
				p.poison()
			}
		})
	}
	return answer{}, ended(ctx)
}

func (p *Plugin) poison() { p.poisonOnce.Do(func() { close(p.poisoned) }) }

func errPoisoned() error {
	return core.Errorf("", core.CodePluginPoisoned,
		"an earlier call did not return by its deadline; the library takes no calls until the worker restarts")
}

// ended is the error of a context that has ended.
func ended(ctx context.Context) error {
	code := core.CodeCanceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code = core.CodeDeadlineExceeded
	}
	return core.Wrap("", code, context.Cause(ctx))
}

// Stop waits for calls that run until ctx ends, then lets the plugin shut down.
// Code that still runs is left as it is, and Stop says so.
func (p *Plugin) Stop(ctx context.Context) error {
	p.stopOnce.Do(func() {
		close(p.closed)
		p.stopErr = p.shutdown(ctx)
	})
	return p.stopErr
}

// shutdown takes every slot for good, so that nothing runs beside or after it.
func (p *Plugin) shutdown(ctx context.Context) error {
	for range cap(p.slots) {
		select {
		case p.slots <- struct{}{}:
		case <-p.poisoned:
			return nil // the stuck call was reported when it got stuck
		case <-ctx.Done():
			return core.Errorf("shutdown", core.CodePluginPoisoned, "a call is still running, the library is left as it is")
		}
	}
	done := make(chan struct{})
	go func() {
		p.code.Shutdown()
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return core.Errorf("shutdown", core.CodePluginPoisoned, "the plugin's shutdown did not return in time")
	}
}
