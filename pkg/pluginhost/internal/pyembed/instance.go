package pyembed

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// QueueDepth is how many calls wait inside an instance; more wait outside.
const QueueDepth = 1024

// grace is what a call gets beyond its deadline to obey Cancelled.
const grace = time.Second

// Spec describes an instance.
type Spec struct {
	Plugin  string          // the plugin's name
	Digest  string          // of its files: instances of one digest share imported modules
	Dir     string          // absolute; first on the path of its modules
	Module  string          // what is imported
	Factory string          // the function of Module that makes the object
	Config  json.RawMessage // a JSON object, for init
	Fresh   bool            // import the plugin's own modules again

	// Log gets each line that the plugin prints. It does not block.
	Log func(line string)
}

// Instance is one object of a plugin and the thread that calls it. Every method
// may be called by many goroutines at once.
type Instance struct {
	queue    chan *request
	requests sync.Pool               // of *request, answered ones
	closing  chan struct{}           // closed by the first Stop: no new calls
	quit     chan struct{}           // closed when the thread should end after its current run
	gone     chan struct{}           // closed when no call is answered any more
	ended    chan struct{}           // closed when the thread is gone
	running  atomic.Uint64           // the run in progress, or 0
	current  atomic.Pointer[request] // what the thread has in hand
	upcoming atomic.Pointer[request] // what it runs next
	ending   atomic.Bool             // set after gone is closed, before the calls that wait are answered
	stopOnce sync.Once
	stopErr  error // written inside stopOnce
	quitOnce sync.Once

	mu         sync.Mutex     // guards what follows; not held while Python runs
	thread     thread         // set by the loop
	over       bool           // thread must not be used any more
	interrupts sync.WaitGroup // interrupts that use thread
	why        error          // set before gone is closed
}

// Start makes an instance: its module is imported, the factory called, the object
// initialised and preflighted, all before ctx ends. On failure nothing stays.
func (in *Interpreter) Start(ctx context.Context, s Spec) (*Instance, error) {
	i := newInstance()
	log, err := newLog(s.Log)
	if err != nil {
		return nil, err
	}
	ready := make(chan error, 1)
	go i.loop(in.newThread, log, ready)
	select {
	case err := <-ready:
		if err != nil {
			return nil, err
		}
	case <-ctx.Done(): // another plugin keeps the interpreter's lock
		i.quitOnce.Do(func() { close(i.quit) })
		return nil, ended(ctx)
	}
	if err := i.begin(ctx, s, in.lib.Site, log.fd()); err != nil {
		i.leaveThread(ctx)
		return nil, err
	}
	return i, nil
}

func newInstance() *Instance {
	return &Instance{
		queue:   make(chan *request, QueueDepth),
		closing: make(chan struct{}),
		quit:    make(chan struct{}),
		gone:    make(chan struct{}),
		ended:   make(chan struct{}),
	}
}

// begin loads, initialises and preflights the object.
func (i *Instance) begin(ctx context.Context, s Spec, site []string, logFD uintptr) error {
	spec, err := json.Marshal(map[string]any{
		"plugin": s.Plugin, "digest": s.Digest, "dir": s.Dir, "module": s.Module, "factory": s.Factory,
		"fresh": s.Fresh, "site": site, "log_fd": logFD,
	})
	if err != nil {
		return core.Errorf(op, core.CodeInternal, "%w", err)
	}
	if _, err := i.do(ctx, runLoad, opLoad, spec); err != nil {
		return core.WithOp("load", err)
	}
	_, err = i.do(ctx, runControl, opStart, s.Config)
	return core.WithOp("init", err)
}

// leaveThread lets the thread end, and waits for that unless ctx is what failed.
func (i *Instance) leaveThread(ctx context.Context) {
	i.quitOnce.Do(func() { close(i.quit) })
	select {
	case <-i.ended:
	case <-ctx.Done():
	}
}

// Call runs one method. It returns when ctx ends, whatever the plugin does.
func (i *Instance) Call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	select {
	case <-i.closing:
		return nil, errClosed()
	default:
	}
	out, err := i.do(ctx, runCall, method, payload)
	if err == nil && len(out) > core.MaxCallPayload {
		return nil, core.Errorf("", core.CodeTooLarge, "the result has %d bytes, at most %d are allowed", len(out), core.MaxCallPayload)
	}
	return out, err
}

// do lines up one run and waits for its answer.
func (i *Instance) do(ctx context.Context, w which, method string, payload []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	r := i.newRequest(w, method, payload)
	select {
	case i.queue <- r:
	default:
		select {
		case i.queue <- r:
		case <-i.gone:
			return nil, i.Exit()
		case <-ctx.Done():
			return nil, ended(ctx)
		}
	}
	if i.ending.Load() {
		i.refuse() // the one who ended the instance may not have seen r
	}
	var a result
	if ctx.Done() == nil {
		a = <-r.done
	} else {
		select {
		case a = <-r.done:
		case <-ctx.Done():
			return i.leave(ctx, r)
		}
	}
	i.recycle(r)
	return a.bytes, a.err
}

// refuse answers the given requests, and all that wait in the queue, with the
// instance's end.
func (i *Instance) refuse(held ...*request) {
	res := result{err: i.Exit()}
	for _, r := range held {
		if r != nil {
			r.answer(res)
		}
	}
	for {
		select {
		case r := <-i.queue:
			r.answer(res)
		default:
			return
		}
	}
}

// leave gives up waiting for r. A run that has begun is interrupted, and poisons
// the instance if it goes on beyond the deadline.
func (i *Instance) leave(ctx context.Context, r *request) ([]byte, error) {
	seq, begun := r.abandon()
	if !begun {
		return nil, ended(ctx)
	}
	select {
	case a := <-r.done:
		return a.bytes, a.err
	default:
	}
	i.interrupt(seq)
	if deadline, ok := ctx.Deadline(); ok {
		time.AfterFunc(time.Until(deadline)+grace, func() { i.poison(seq) })
	}
	return nil, ended(ctx)
}

// poison gives the instance up if the run is still in Python. One that waits for the
// interpreter's lock is a victim of another plugin: it is looked at again, and
// does not begin once the lock is free.
func (i *Instance) poison(seq uint64) {
	i.mu.Lock()
	over := i.over || i.running.Load() != seq
	began := !over && i.thread.began(seq)
	i.mu.Unlock()
	switch {
	case over:
	case began:
		i.end(errPoisoned())
	default:
		time.AfterFunc(grace, func() { i.poison(seq) })
	}
}

// interrupt raises Cancelled in a run, without waiting for it: code that keeps the
// interpreter's lock keeps this from getting it.
func (i *Instance) interrupt(seq uint64) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.over || i.thread == nil {
		return
	}
	th := i.thread
	i.interrupts.Go(func() { th.interrupt(seq) })
}

// end closes gone for a reason, the first one given, and answers every call.
func (i *Instance) end(why error) {
	i.mu.Lock()
	first := i.why == nil
	if first {
		i.why = why
		close(i.gone)
	}
	i.mu.Unlock()
	if first {
		i.ending.Store(true)
		i.refuse(i.current.Load(), i.upcoming.Load())
	}
}

// Done is closed when the instance answers no call any more.
func (i *Instance) Done() <-chan struct{} { return i.gone }

// Exit tells, once Done is closed, why: [core.CodePluginPoisoned], or
// [core.CodeClosed] after Stop.
func (i *Instance) Exit() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.why
}

// Stop lets calls that wait or run finish, runs the plugin's shutdown and ends the
// thread. When ctx ends first, the run in progress is interrupted and left behind.
func (i *Instance) Stop(ctx context.Context) error {
	i.stopOnce.Do(func() {
		close(i.closing)
		i.stopErr = i.shutdown(ctx)
	})
	return i.stopErr
}

func (i *Instance) shutdown(ctx context.Context) error {
	defer i.quitOnce.Do(func() { close(i.quit) })
	_, err := i.do(ctx, runControl, opStop, nil)
	if core.IsCode(i.Exit(), core.CodePluginPoisoned) {
		return nil // told when it happened
	}
	i.quitOnce.Do(func() { close(i.quit) })
	select {
	case <-i.ended:
	case <-ctx.Done():
		if seq := i.running.Load(); seq != 0 {
			i.interrupt(seq)
		}
		i.end(errClosed())
	}
	return core.WithOp("shutdown", err)
}

func errClosed() error { return core.Errorf("", core.CodeClosed, "the plugin is shut down") }

func errPoisoned() error {
	return core.Errorf("", core.CodePluginPoisoned,
		"an earlier call is still running %v after its deadline; its thread is given up", grace)
}

// ended is the error of a context that has ended.
func ended(ctx context.Context) error {
	code := core.CodeCanceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		code = core.CodeDeadlineExceeded
	}
	return core.Wrap("", code, context.Cause(ctx))
}
