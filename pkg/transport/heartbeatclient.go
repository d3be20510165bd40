package transport

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/internal/grpcerr"
	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// HeartbeatStream sends a worker's beats over one long-lived stream. When the
// identity gets a new certificate, the next beat opens a stream that shows it and
// the old one ends quietly. Safe for concurrent use.
type HeartbeatStream struct {
	w     *WorkerConn
	onAck func(core.BeatAck)
	// ctx is the life of the whole, of every stream that is opened in turn.
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup // receiving goroutines

	sendMu sync.Mutex // serialises sends, which flow control may delay; taken before mu
	moving bool       // a stream for a new certificate is being opened, guarded by sendMu

	mu      sync.Mutex // guards the fields below
	cur     *beatStream
	waiting map[beatKey]chan beatAnswer
	err     error // why the current stream ended; nil while it lives
}

// beatKey finds who waits for an answer.
type beatKey struct{ epoch, seq uint64 }

type beatAnswer struct {
	ack core.BeatAck
	err error
}

// beatStream is one stream on one link.
type beatStream struct {
	grpc.BidiStreamingClient[transportv1.BeatRequest, transportv1.BeatResponse]
	link   *link
	cancel context.CancelFunc
	out    transportv1.BeatRequest // used again for every beat
	prev   *beatStream             // ends once this one has been answered; touched by the receiver only

	mu    sync.Mutex // guards order
	order []beatKey  // of the beats that are not answered; answers come in this order
}

// OpenHeartbeat opens a heartbeat stream, which lives until ctx ends, it breaks, or
// Close. onAck, where not nil, is told every acknowledgement as it arrives, those
// whose sender no longer waits among them; it must not block.
func (w *WorkerConn) OpenHeartbeat(ctx context.Context, onAck func(core.BeatAck)) (*HeartbeatStream, error) {
	h := &HeartbeatStream{w: w, onAck: onAck, waiting: map[beatKey]chan beatAnswer{}}
	h.ctx, h.cancel = context.WithCancel(ctx)
	if err := h.open(nil); err != nil {
		h.cancel()
		return nil, core.WithOp("open heartbeat", err)
	}
	return h, nil
}

// open makes a stream on the current link the current one. The stream that
// it takes over from ends once the coordinator has answered on the new one: before,
// it would take the worker for gone.
func (h *HeartbeatStream) open(prev *beatStream) error {
	l, err := h.w.link()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(h.ctx)
	cs, err := transportv1.NewHeartbeatClient(l.ccs[channelBeat]).Stream(ctx)
	if err != nil {
		cancel()
		h.w.done(l)
		return err
	}
	s := &beatStream{BidiStreamingClient: cs, link: l, cancel: cancel, prev: prev}
	// Current before its receiver starts, which may see the stream end at once.
	h.mu.Lock()
	h.cur = s
	h.mu.Unlock()
	h.wg.Go(func() { h.receive(s) })
	return nil
}

// Beat sends one beat and waits for its answer. A beat that is refused while the
// stream goes on, with [core.CodeFailedPrecondition] for instance, leaves the stream
// usable; after an error of the stream itself, [HeartbeatStream.Err] is set and a
// new one must be opened. A beat given up because ctx ended may still be
// acknowledged later, which onAck is told.
func (h *HeartbeatStream) Beat(ctx context.Context, b core.Heartbeat) (core.BeatAck, error) {
	const op = "beat"
	key := beatKey{b.Worker.Epoch, b.Seq}
	ch := make(chan beatAnswer, 1)
	h.mu.Lock()
	if h.err != nil {
		defer h.mu.Unlock()
		return core.BeatAck{}, core.WithOp(op, h.err)
	}
	h.waiting[key] = ch
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.waiting, key)
	}()
	if err := h.send(b, key); err != nil {
		return core.BeatAck{}, core.WithOp(op, err)
	}
	select {
	case a := <-ch:
		return a.ack, core.WithOp(op, a.err)
	case <-ctx.Done():
		return core.BeatAck{}, core.Wrap(op, core.CodeCanceled, context.Cause(ctx))
	}
}

// move opens a stream that shows the new certificate. Beats go on over the old one
// meanwhile; if the move fails, a later beat tries again.
func (h *HeartbeatStream) move(from *beatStream) {
	err := h.open(from)
	h.sendMu.Lock()
	h.moving = false
	h.sendMu.Unlock()
	if err != nil {
		h.w.cfg.Logger.Warn("heartbeat stays on the old certificate", "err", err)
	}
}

// send writes a beat, and sees to it that the stream moves when there is a new
// certificate.
func (h *HeartbeatStream) send(b core.Heartbeat, key beatKey) error {
	h.sendMu.Lock()
	defer h.sendMu.Unlock()
	h.mu.Lock()
	s := h.cur
	h.mu.Unlock()
	if c := h.w.cfg.Identity.current(); c != nil && c != s.link.cert && !h.moving && h.ctx.Err() == nil {
		h.moving = true
		h.wg.Go(func() { h.move(s) })
	}
	beatTo(&s.out, b, b.Worker.ID.String())
	s.mu.Lock()
	s.order = append(s.order, key)
	s.mu.Unlock()
	err := s.Send(&s.out)
	if isEOF(err) {
		return nil // the receiver learns why and tells whoever waits
	}
	return err
}

// receive hands answers to whoever waits for them, until the stream ends.
func (h *HeartbeatStream) receive(s *beatStream) {
	defer h.w.done(s.link)
	defer s.cancel()
	defer func() {
		if s.prev != nil {
			s.prev.cancel()
		}
	}()
	var in transportv1.BeatResponse
	for {
		if err := s.RecvMsg(&in); err != nil {
			h.ended(s, err)
			return
		}
		if s.prev != nil {
			// The old stream ends when its last answer is in. One that broke already has
			// nothing left to close.
			_ = s.prev.CloseSend()
			s.prev = nil
		}
		s.mu.Lock()
		if len(s.order) == 0 {
			s.mu.Unlock()
			h.ended(s, core.Errorf("", core.CodeInternal, "the coordinator answered a beat that was not sent"))
			return
		}
		key := s.order[0]
		s.order = s.order[1:]
		s.mu.Unlock()
		a := beatAnswer{ack: ackFrom(&in), err: h.w.cfg.Guard.observe(in.GetCoordinatorEpoch())}
		if a.err == nil {
			a.err = grpcerr.FromProto(in.GetError())
		}
		if a.err == nil && h.onAck != nil {
			h.onAck(a.ack)
		}
		h.answer(key, a)
	}
}

func (h *HeartbeatStream) answer(key beatKey, a beatAnswer) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if ch := h.waiting[key]; ch != nil {
		ch <- a // has room for the one answer
		delete(h.waiting, key)
	}
}

// ended fails what waits on a stream that is over. A stream that was replaced ends
// without anybody noticing.
func (h *HeartbeatStream) ended(s *beatStream, err error) {
	if isEOF(err) {
		err = core.Errorf("", core.CodeUnavailable, "the coordinator closed the heartbeat stream")
	}
	s.mu.Lock()
	order := s.order
	s.order = nil
	s.mu.Unlock()
	for _, key := range order {
		h.answer(key, beatAnswer{err: err})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cur == s && h.err == nil {
		h.err = err
		for key, ch := range h.waiting {
			ch <- beatAnswer{err: err}
			delete(h.waiting, key)
		}
	}
}

// Err returns why the stream ended, nil while it lives.
func (h *HeartbeatStream) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.err
}

// Close ends the stream and waits until it has ended. The coordinator takes the
// worker for suspect unless it has deregistered.
func (h *HeartbeatStream) Close() error {
	h.sendMu.Lock() // no move begins after this
	h.cancel()
	h.sendMu.Unlock()
	h.wg.Wait()
	return nil
}
