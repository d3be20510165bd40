package transport

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// Subscribe implements [core.Control]: it calls send for every command behind after,
// in order and once each, until ctx ends or the stream breaks. When the identity
// gets a new certificate the subscription moves to a connection that shows it.
func (w *WorkerConn) Subscribe(ctx context.Context, ref core.WorkerRef, after uint64, send func(core.Command) error) error {
	return w.SubscribeOpen(ctx, ref, after, nil, send)
}

// SubscribeOpen is [WorkerConn.Subscribe] that calls open, where not nil, once the
// coordinator has answered that the stream is open. A beat that claims an open
// control stream is true from then on.
func (w *WorkerConn) SubscribeOpen(ctx context.Context, ref core.WorkerRef, after uint64, open func(), send func(core.Command) error) error {
	const op = "subscribe"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &subscription{w: w, ctx: ctx, ref: ref, last: after}
	cs, err := s.open()
	if err != nil {
		return core.WithOp(op, err)
	}
	if open != nil {
		open()
	}
	for cs != nil {
		if cs, err = s.drain(cs, send); err != nil {
			return core.WithOp(op, err)
		}
	}
	return core.WithOp(op, core.Errorf("", core.CodeUnavailable, "the coordinator ended the subscription"))
}

// subscription is one worker's view of the command stream over any number of links.
type subscription struct {
	w   *WorkerConn
	ctx context.Context
	ref core.WorkerRef

	mu   sync.Mutex // guards last
	last uint64     // command handed over
}

// commandStream is one stream on one link.
type commandStream struct {
	grpc.ServerStreamingClient[transportv1.SubscribeResponse]
	link   *link
	cancel context.CancelFunc
}

// open subscribes on the current link and returns once the coordinator has answered.
func (s *subscription) open() (*commandStream, error) {
	l, err := s.w.link()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(s.ctx)
	fail := func(err error) (*commandStream, error) {
		cancel()
		s.w.done(l)
		return nil, err
	}
	s.mu.Lock()
	after := s.last
	s.mu.Unlock()
	cs, err := transportv1.NewControlClient(l.ccs[channelControl]).Subscribe(ctx, &transportv1.SubscribeRequest{WorkerId: s.ref.ID.String(), Epoch: s.ref.Epoch, After: after})
	if err != nil {
		return fail(err)
	}
	md, err := cs.Header()
	if err == nil && md == nil {
		// A stream that ended before its header gives its reason to RecvMsg.
		if err = cs.RecvMsg(&transportv1.SubscribeResponse{}); err == nil {
			err = core.Errorf("", core.CodeInternal, "a stream without a header")
		}
	}
	if err != nil {
		return fail(answers{guard: s.w.cfg.Guard, rec: s.w.rec}.explain(err))
	}
	if err := s.w.cfg.Guard.observeHeader(md); err != nil {
		return fail(err)
	}
	return &commandStream{ServerStreamingClient: cs, link: l, cancel: cancel}, nil
}

// drain hands over the commands of one stream until it ends. It returns the stream
// that took over, if its end was because of that.
func (s *subscription) drain(cs *commandStream, send func(core.Command) error) (*commandStream, error) {
	var next *commandStream
	over := make(chan struct{})
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		select {
		case <-over:
			return
		case <-cs.link.retired:
		}
		// The new stream opens before the old one ends, so that the coordinator never
		// sees a worker without one.
		if n, err := s.open(); err == nil {
			next = n
		}
		cs.cancel()
	}()
	err := s.receive(cs, send)
	close(over)
	<-moved
	cs.cancel()
	s.w.done(cs.link)
	switch {
	case next != nil && (err == nil || core.CodeOf(err) == core.CodeCanceled || core.CodeOf(err) == core.CodeConflict) && s.ctx.Err() == nil:
		return next, nil
	case next != nil:
		next.cancel()
		s.w.done(next.link)
	}
	if s.ctx.Err() != nil && core.CodeOf(err) == core.CodeCanceled {
		err = core.Wrap("", core.CodeCanceled, context.Cause(s.ctx))
	}
	return nil, err
}

// receive hands over commands, each once.
func (s *subscription) receive(cs *commandStream, send func(core.Command) error) error {
	for {
		m, err := cs.Recv()
		if isEOF(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if m.GetCommand() == nil {
			continue // something newer than this worker
		}
		cmd, err := commandFrom(m.GetCommand())
		if err != nil {
			return err
		}
		s.mu.Lock()
		seen := cmd.Seq <= s.last
		s.last = max(s.last, cmd.Seq)
		s.mu.Unlock()
		if seen {
			continue
		}
		if err := send(cmd); err != nil {
			return err
		}
	}
}
