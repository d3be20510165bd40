package transport

import (
	"context"
	"sync"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/internal/grpcerr"
	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

const (
	workBytes   = 512 << 10 // payload bytes of one message of work, beside its last item
	workBatches = 64        // batches of a stream that wait to be committed
	workCommit  = 1024      // results that are committed together at most
)

// workService puts a [core.Work] on the wire.
type workService struct {
	transportv1.UnimplementedWorkServer
	work core.Work
}

// workStream is one worker's stream at the server.
type workStream struct {
	ss      grpc.BidiStreamingServer[transportv1.WorkStreamRequest, transportv1.WorkStreamResponse]
	session core.WorkSession
	worker  core.WorkerID
	ctx     context.Context
	end     context.CancelCauseFunc
	pulls   chan core.PullBudget
	batches chan workBatch

	mu  sync.Mutex // serialises sends; guards seq
	seq uint64
}

// workBatch is results or a return on its way to disk.
type workBatch struct {
	number  uint64
	results []core.WorkResult
	bad     []error // of results that could not be read, by position
	leases  []core.Lease
	reason  string
}

// Stream serves one worker's work.
func (w *workService) Stream(ss grpc.BidiStreamingServer[transportv1.WorkStreamRequest, transportv1.WorkStreamResponse]) error {
	first, err := ss.Recv()
	if err != nil {
		return err
	}
	at := first.GetAttach()
	if at == nil {
		return core.Errorf("work", core.CodeInvalidArgument, "the first message of a work stream must attach")
	}
	id := connOf(ss.Context()).caller.Worker
	session, err := w.work.Attach(ss.Context(), core.WorkerRef{ID: id, Epoch: at.GetEpoch()}, pluginsFrom(at.GetPlugins()), leasesFrom(at.GetHolding(), id))
	if err != nil {
		return err
	}
	s := &workStream{ss: ss, session: session, worker: id, pulls: make(chan core.PullBudget, 1), batches: make(chan workBatch, workBatches)}
	s.ctx, s.end = context.WithCancelCause(ss.Context())
	err = s.serve()
	if cerr := session.Close(); err == nil {
		err = cerr
	}
	return err
}

// serve runs the three halves of a stream until one ends: reading, pulling and
// committing. Results that were read are committed before it returns.
func (s *workStream) serve() error {
	missed, lost := s.session.Resumed()
	if err := s.send(&transportv1.WorkStreamResponse{Tell: &transportv1.WorkStreamResponse_Attached{
		Attached: &transportv1.WorkAttached{Lost: leasesTo(lost), Missed: uint32(len(missed))},
	}}); err != nil {
		return err
	}
	if err := s.sendItems(missed, false); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(s.pull)
	wg.Go(s.commit)
	// The reader ends with the handler: Recv returns once Stream has.
	go s.read()
	<-s.ctx.Done()
	wg.Wait()
	if cause := context.Cause(s.ctx); !isEOF(cause) {
		return cause
	}
	return nil
}

// read takes messages in until the worker hangs up.
func (s *workStream) read() {
	for {
		m, err := s.ss.Recv()
		if err == nil {
			err = s.take(m)
		}
		if err != nil {
			s.end(err)
			return
		}
	}
}

func (s *workStream) take(m *transportv1.WorkStreamRequest) error {
	switch {
	case m.GetPull() != nil:
		p := m.GetPull()
		budget := core.PullBudget{Slots: int(min(p.GetSlots(), 1<<20)), Bytes: workBytes}
		if b := p.GetBytes(); b > 0 {
			budget.Bytes = min(b, workBytes)
		}
		select {
		case s.pulls <- budget:
			return nil
		default:
			return core.Errorf("work", core.CodeInvalidArgument, "a second pull came before the first was answered")
		}
	case m.GetResults() != nil:
		b := workBatch{number: m.GetResults().GetBatch()}
		for _, r := range m.GetResults().GetResults() {
			res, err := resultFrom(r, s.worker)
			b.results, b.bad = append(b.results, res), append(b.bad, err)
		}
		return s.queue(b)
	case m.GetReturn() != nil:
		r := m.GetReturn()
		return s.queue(workBatch{number: r.GetBatch(), leases: leasesFrom(r.GetLeases(), s.worker), reason: r.GetReason()})
	case m.GetPlugins() != nil:
		s.session.SetPlugins(pluginsFrom(m.GetPlugins().GetPlugins()))
		return nil
	}
	return core.Errorf("work", core.CodeInvalidArgument, "a message of a work stream says nothing that this coordinator knows")
}

// queue hands a batch over. While the disk is behind it waits, and gRPC's flow
// control makes the worker wait.
func (s *workStream) queue(b workBatch) error {
	select {
	case s.batches <- b:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// pull answers one pull after the other.
func (s *workStream) pull() {
	for {
		select {
		case budget := <-s.pulls:
			items, err := s.session.Pull(s.ctx, budget)
			if err == nil {
				err = s.sendItems(items, true)
			}
			if err != nil {
				s.end(err)
				return
			}
		case <-s.ctx.Done():
			return
		}
	}
}

// commit stores batches; those that wait go together. After the stream has ended it
// stores what was read, because that costs nobody anything and saves a second run.
func (s *workStream) commit() {
	for {
		select {
		case b := <-s.batches:
			s.commitSome(b)
		case <-s.ctx.Done():
			for {
				select {
				case b := <-s.batches:
					s.commitSome(b)
				default:
					return
				}
			}
		}
	}
}

// commitSome stores a batch and those of its kind that wait behind it.
func (s *workStream) commitSome(b workBatch) {
	group := []workBatch{b}
	n := len(b.results)
	for b.leases == nil && n < workCommit {
		select {
		case next := <-s.batches:
			if next.leases != nil {
				s.commitResults(group)
				s.giveBack(next)
				return
			}
			group, n = append(group, next), n+len(next.results)
			continue
		default:
		}
		break
	}
	if b.leases != nil {
		s.giveBack(b)
		return
	}
	s.commitResults(group)
}

func (s *workStream) commitResults(group []workBatch) {
	var all []core.WorkResult
	for _, b := range group {
		for i, r := range b.results {
			if b.bad[i] == nil {
				all = append(all, r)
			}
		}
	}
	// What was read is committed whatever becomes of the stream.
	errs, err := s.session.Submit(context.WithoutCancel(s.ctx), all)
	for _, b := range group {
		out := &transportv1.WorkOutcomes{Batch: b.number}
		switch {
		case err != nil && errs == nil:
			out.Failed = grpcerr.ToProto(err)
		default:
			out.Errors = make([]*transportv1.Error, len(b.results))
			for i := range b.results {
				answer := b.bad[i]
				if answer == nil {
					answer, errs = errs[0], errs[1:]
				}
				out.Errors[i] = grpcerr.ToProto(answer)
				if out.Errors[i] == nil {
					out.Errors[i] = &transportv1.Error{}
				}
			}
		}
		s.answer(&transportv1.WorkStreamResponse{Tell: &transportv1.WorkStreamResponse_Outcomes{Outcomes: out}})
	}
	if err != nil && errs != nil {
		s.end(err) // stored, but what follows from it was not: the session is begun anew
	}
}

func (s *workStream) giveBack(b workBatch) {
	err := s.session.Return(context.WithoutCancel(s.ctx), b.leases, b.reason)
	s.answer(&transportv1.WorkStreamResponse{Tell: &transportv1.WorkStreamResponse_Returned{
		Returned: &transportv1.WorkReturned{Batch: b.number, Failed: grpcerr.ToProto(err)},
	}})
}

// answer sends unless the stream is over, when nobody listens.
func (s *workStream) answer(m *transportv1.WorkStreamResponse) {
	if s.ctx.Err() != nil {
		return
	}
	if err := s.send(m); err != nil {
		s.end(err)
	}
}

// sendItems sends items in messages of a bounded size.
func (s *workStream) sendItems(items []core.WorkItem, pulled bool) error {
	for len(items) > 0 {
		m := &transportv1.WorkItems{Pulled: pulled}
		size := 0
		for len(items) > 0 && (len(m.Items) == 0 || pulled || size+len(items[0].Payload) <= workBytes) {
			size += len(items[0].Payload)
			m.Items, items = append(m.Items, itemTo(items[0])), items[1:]
		}
		if err := s.send(&transportv1.WorkStreamResponse{Tell: &transportv1.WorkStreamResponse_Items{Items: m}}); err != nil {
			return err
		}
	}
	return nil
}

func (s *workStream) send(m *transportv1.WorkStreamResponse) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seq++
	m.Seq = s.seq
	return s.ss.Send(m)
}
