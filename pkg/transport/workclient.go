package transport

import (
	"context"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/internal/grpcerr"
	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// WorkStream is a worker's view of its work session. When it breaks, or the
// identity has a new certificate, every call ends with [core.CodeUnavailable] and
// the worker attaches again with what it holds; no lease is lost by that. Pull is
// called by one goroutine at a time, the others by any.
type WorkStream struct {
	cs     grpc.BidiStreamingClient[transportv1.WorkStreamRequest, transportv1.WorkStreamResponse]
	ref    core.WorkerRef
	ctx    context.Context
	end    context.CancelCauseFunc
	over   chan struct{} // closed when receiving has ended
	items  chan []core.WorkItem
	missed []core.WorkItem
	lost   []core.Lease
	seq    atomic.Uint64
	asked  bool // a pull is open; touched by the pulling goroutine only

	sendMu sync.Mutex // serialises sends, which flow control may delay

	mu      sync.Mutex // guards the fields below
	batch   uint64
	waiting map[uint64]chan workAnswer
}

var (
	_ core.Work        = (*WorkerConn)(nil)
	_ core.WorkSession = (*WorkStream)(nil)
)

// workAnswer is what became of one batch.
type workAnswer struct {
	errs []error
	err  error
}

// Attach implements [core.Work]. The work connection opens with the first attach.
// ctx bounds the attaching only.
func (w *WorkerConn) Attach(ctx context.Context, ref core.WorkerRef, plugins []core.LoadedPlugin, holding []core.Lease) (core.WorkSession, error) {
	return w.OpenWork(ctx, ref, plugins, holding)
}

// OpenWork is [WorkerConn.Attach] with the stream's own type.
func (w *WorkerConn) OpenWork(ctx context.Context, ref core.WorkerRef, plugins []core.LoadedPlugin, holding []core.Lease) (*WorkStream, error) {
	const op = "attach work"
	l, err := w.link()
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	s := &WorkStream{ref: ref, over: make(chan struct{}), items: make(chan []core.WorkItem, 1), waiting: map[uint64]chan workAnswer{}}
	s.ctx, s.end = context.WithCancelCause(context.Background())
	fail := func(err error) (*WorkStream, error) {
		s.end(err)
		w.done(l)
		if ctx.Err() != nil {
			err = core.Wrap("", core.CodeCanceled, ctx.Err())
		}
		return nil, core.WithOp(op, err)
	}
	// Until it is attached the stream ends with the caller's context.
	stop := context.AfterFunc(ctx, func() { s.end(context.Cause(ctx)) })
	if s.cs, err = transportv1.NewWorkClient(l.ccs[channelWork]).Stream(s.ctx); err != nil {
		return fail(err)
	}
	err = s.send(&transportv1.WorkStreamRequest{Say: &transportv1.WorkStreamRequest_Attach{
		Attach: &transportv1.WorkAttach{Epoch: ref.Epoch, Plugins: pluginsTo(plugins), Holding: leasesTo(holding)},
	}})
	if err == nil || isEOF(err) {
		err = s.attached()
	}
	if err != nil || !stop() {
		if err == nil {
			err = context.Cause(ctx)
		}
		return fail(err)
	}
	go s.receive(w, l)
	return s, nil
}

// attached reads the answer to the attach and the items that come with it.
func (s *WorkStream) attached() error {
	m, err := s.recv()
	if err != nil {
		return err
	}
	at := m.GetAttached()
	if at == nil {
		return core.Errorf("", core.CodeInternal, "the coordinator did not answer the attach")
	}
	s.lost = leasesFrom(at.GetLost(), s.ref.ID)
	for len(s.missed) < int(at.GetMissed()) {
		if m, err = s.recv(); err != nil {
			return err
		}
		items, err := s.itemsOf(m.GetItems())
		if err != nil {
			return err
		}
		s.missed = append(s.missed, items...)
	}
	return nil
}

func (s *WorkStream) recv() (*transportv1.WorkStreamResponse, error) {
	m, err := s.cs.Recv()
	if isEOF(err) {
		return nil, core.Errorf("", core.CodeUnavailable, "the coordinator ended the work stream")
	}
	if err == nil {
		s.seq.Store(m.GetSeq())
	}
	return m, err
}

func (s *WorkStream) itemsOf(m *transportv1.WorkItems) ([]core.WorkItem, error) {
	if len(m.GetItems()) == 0 {
		return nil, core.Errorf("", core.CodeInternal, "the coordinator sent no items where items were due")
	}
	out := make([]core.WorkItem, len(m.GetItems()))
	for i, it := range m.GetItems() {
		w, err := itemFrom(it, s.ref.ID)
		if err != nil {
			return nil, err
		}
		out[i] = w
	}
	return out, nil
}

// receive hands answers to whoever waits until the stream ends.
func (s *WorkStream) receive(w *WorkerConn, l *link) {
	moved := make(chan struct{})
	go func() {
		defer close(moved)
		select {
		case <-l.retired:
			s.end(core.Errorf("", core.CodeUnavailable, "the connection moves to a new certificate"))
		case <-s.ctx.Done():
		}
	}()
	var err error
	for err == nil {
		var m *transportv1.WorkStreamResponse
		if m, err = s.recv(); err == nil {
			err = s.dispatch(m)
		}
	}
	s.end(err)
	<-moved
	close(s.over)
	w.done(l)
}

func (s *WorkStream) dispatch(m *transportv1.WorkStreamResponse) error {
	switch {
	case m.GetItems() != nil:
		items, err := s.itemsOf(m.GetItems())
		if err != nil {
			return err
		}
		select {
		case s.items <- items:
			return nil
		default:
			return core.Errorf("", core.CodeInternal, "the coordinator sent items that were not asked for")
		}
	case m.GetOutcomes() != nil:
		o := m.GetOutcomes()
		a := workAnswer{err: fromProto(o.GetFailed()), errs: make([]error, len(o.GetErrors()))}
		for i, e := range o.GetErrors() {
			a.errs[i] = fromProto(e)
		}
		s.answer(o.GetBatch(), a)
	case m.GetReturned() != nil:
		s.answer(m.GetReturned().GetBatch(), workAnswer{err: fromProto(m.GetReturned().GetFailed())})
	}
	return nil // something newer than this worker is passed over
}

// fromProto reads an error in which code 0 and no text mean none.
func fromProto(e *transportv1.Error) error {
	if e == nil || e.GetCode() == 0 && e.GetMessage() == "" {
		return nil
	}
	return grpcerr.FromProto(e)
}

func (s *WorkStream) answer(batch uint64, a workAnswer) {
	s.mu.Lock()
	ch := s.waiting[batch]
	delete(s.waiting, batch)
	s.mu.Unlock()
	if ch != nil {
		ch <- a // has room for the one answer
	}
}

func (s *WorkStream) send(m *transportv1.WorkStreamRequest) error {
	m.WorkerId = s.ref.ID.String()
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	return s.cs.Send(m)
}

// cause says why the stream is over.
func (s *WorkStream) cause(op string) error {
	return core.WithOp(op, context.Cause(s.ctx))
}

// Seq returns the number of the last message seen, which heartbeats carry.
func (s *WorkStream) Seq() uint64 { return s.seq.Load() }

// Done is closed when the stream is over.
func (s *WorkStream) Done() <-chan struct{} { return s.ctx.Done() }

// Resumed implements [core.WorkSession].
func (s *WorkStream) Resumed() ([]core.WorkItem, []core.Lease) { return s.missed, s.lost }

// Pull implements [core.WorkSession]. When ctx ends while a pull is open, its items
// are returned by the next call.
func (s *WorkStream) Pull(ctx context.Context, budget core.PullBudget) ([]core.WorkItem, error) {
	const op = "pull work"
	if !s.asked {
		err := s.send(&transportv1.WorkStreamRequest{Say: &transportv1.WorkStreamRequest_Pull{
			Pull: &transportv1.WorkPull{Slots: uint32(max(1, budget.Slots)), Bytes: budget.Bytes},
		}})
		if err != nil && !isEOF(err) {
			return nil, core.WithOp(op, err)
		}
		s.asked = true
	}
	select {
	case items := <-s.items:
		s.asked = false
		return items, nil
	case <-ctx.Done():
		return nil, core.Wrap(op, core.CodeCanceled, ctx.Err())
	case <-s.ctx.Done():
		return nil, s.cause(op)
	}
}

// Submit implements [core.WorkSession]. Results above [core.MaxInlinePayload] must
// have been uploaded with [WorkerConn.Upload].
func (s *WorkStream) Submit(ctx context.Context, results []core.WorkResult) ([]error, error) {
	const op = "submit work"
	out := make([]error, 0, len(results))
	var open []chan workAnswer
	var sizes []int
	for len(results) > 0 {
		m := &transportv1.WorkResults{}
		size := 0
		for len(results) > 0 && (len(m.Results) == 0 || size+len(results[0].Result) <= workBytes) {
			size += len(results[0].Result) + 128
			m.Results, results = append(m.Results, resultTo(results[0])), results[1:]
		}
		ch := s.expect(func(n uint64) { m.Batch = n })
		if err := s.send(&transportv1.WorkStreamRequest{Say: &transportv1.WorkStreamRequest_Results{Results: m}}); err != nil && !isEOF(err) {
			return nil, core.WithOp(op, err)
		}
		open, sizes = append(open, ch), append(sizes, len(m.Results))
	}
	for i, ch := range open {
		a, err := s.wait(ctx, op, ch)
		if err != nil {
			return nil, err
		}
		if len(a.errs) != sizes[i] {
			return nil, core.Errorf(op, core.CodeInternal, "%d outcomes came for %d results", len(a.errs), sizes[i])
		}
		out = append(out, a.errs...)
	}
	return out, nil
}

// expect numbers a batch and returns where its answer will be.
func (s *WorkStream) expect(number func(uint64)) chan workAnswer {
	ch := make(chan workAnswer, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batch++
	number(s.batch)
	s.waiting[s.batch] = ch
	return ch
}

func (s *WorkStream) wait(ctx context.Context, op string, ch chan workAnswer) (workAnswer, error) {
	select {
	case a := <-ch:
		return a, core.WithOp(op, a.err)
	case <-ctx.Done():
		return workAnswer{}, core.Wrap(op, core.CodeCanceled, ctx.Err())
	case <-s.ctx.Done():
		return workAnswer{}, s.cause(op)
	}
}

// Return implements [core.WorkSession].
func (s *WorkStream) Return(ctx context.Context, leases []core.Lease, reason string) error {
	const op = "return work"
	if len(leases) == 0 {
		return nil
	}
	m := &transportv1.WorkReturn{Leases: leasesTo(leases), Reason: reason}
	ch := s.expect(func(n uint64) { m.Batch = n })
	if err := s.send(&transportv1.WorkStreamRequest{Say: &transportv1.WorkStreamRequest_Return{Return: m}}); err != nil && !isEOF(err) {
		return core.WithOp(op, err)
	}
	_, err := s.wait(ctx, op, ch)
	return err
}

// SetPlugins implements [core.WorkSession]. A broken stream shows in the next call.
func (s *WorkStream) SetPlugins(plugins []core.LoadedPlugin) {
	err := s.send(&transportv1.WorkStreamRequest{Say: &transportv1.WorkStreamRequest_Plugins{
		Plugins: &transportv1.WorkPlugins{Plugins: pluginsTo(plugins)},
	}})
	if err != nil && !isEOF(err) {
		s.end(err)
	}
}

// Close implements [core.WorkSession].
func (s *WorkStream) Close() error {
	s.end(core.Errorf("work", core.CodeClosed, "the work stream was closed"))
	<-s.over
	return nil
}
