package worker

import (
	"context"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// workLink is a link that carries work.
type workLink interface {
	core.Work
	// Upload stores a result too large for a message and returns its id.
	Upload(ctx context.Context, b []byte) (core.ContentID, error)
	// Download fetches a payload too large for a message.
	Download(ctx context.Context, id core.ContentID, limit int64) ([]byte, error)
}

// workbench is the work of one epoch: what was leased, what runs, and what waits to
// be handed in.
//
//	pull -> waiting -> a hand (one for each slot) -> results -> submit
//
// An item stays in hand from its lease until its result is durable, so that a new
// stream can say what the worker still holds. When the epoch ends, everything is
// dropped: the coordinator has given it to others, or will.
type workbench struct {
	e     *epoch
	link  workLink
	slots int
	ctx   context.Context // ends with the epoch, or when a drain runs out of time
	cut   context.CancelFunc

	// mu guards the fields below; nothing is called while it is held.
	mu       sync.Mutex
	cond     *sync.Cond // waiting, results, closing or session has changed
	hand     map[uint64]*inHand
	waiting  []*inHand
	running  int // items
	results  []core.WorkResult
	sending  int           // results on their way
	pace     time.Duration // mean time of an item in a slot; 0: not known yet
	closing  bool          // no more is taken
	session  core.WorkSession
	lastBusy time.Time
}

// inHand is an item that the worker holds.
type inHand struct {
	item   core.WorkItem
	cancel context.CancelFunc // of its execution; nil while it waits
	gone   bool               // its lease is lost or its job cancelled
}

func newWorkbench(e *epoch, l workLink) *workbench {
	b := &workbench{e: e, link: l, slots: e.w.cfg.Slots, hand: map[uint64]*inHand{}}
	b.cond = sync.NewCond(&b.mu)
	b.ctx, b.cut = context.WithCancel(e.ctx)
	return b
}

// work runs the bench once the worker is ready, until the epoch ends.
func (e *epoch) work(ctx context.Context) error {
	if e.bench == nil {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	select {
	case <-e.working:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	b := e.bench
	defer b.cut()
	var group sync.WaitGroup
	for range b.slots {
		group.Go(b.execute)
	}
	group.Go(b.submit)
	group.Go(b.reportIdle)
	stop := context.AfterFunc(b.ctx, b.wake)
	defer stop()
	end := b.attachAndPull()
	b.wake()
	<-b.ctx.Done()
	group.Wait()
	if end != nil && ctx.Err() == nil {
		return end
	}
	// After a drain the epoch goes on until the worker has said goodbye.
	<-ctx.Done()
	return context.Cause(ctx)
}

// wake lets every part look again.
func (b *workbench) wake() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cond.Broadcast()
}

// attachAndPull keeps a session open and fills the bench from it. It returns nil
// when nothing more is to be taken, or what ends the epoch.
func (b *workbench) attachAndPull() error {
	attempts := backoff{last: b.e.timing.HeartbeatInterval / 2}
	for b.ctx.Err() == nil {
		if err := b.e.act(); err != nil {
			return err
		}
		s, err := b.link.Attach(b.ctx, b.e.ref, b.plugins(), b.leases())
		if err == nil {
			attempts.reset()
			b.open(s)
			err = b.fill(s)
			b.closed(s)
		}
		if b.ctx.Err() != nil {
			return nil
		}
		if end := b.e.answered(err); end != nil {
			return end
		}
		b.e.log.Debug("the work stream broke", "err", err)
		if attempts.sleep(b.ctx) != nil {
			return nil
		}
	}
	return nil
}

func (b *workbench) plugins() []core.LoadedPlugin {
	if l, ok := b.e.w.cfg.Executor.(PluginLister); ok {
		return l.LoadedPlugins()
	}
	return nil
}

// tellPlugins says anew what the worker can serve.
func (b *workbench) tellPlugins() {
	b.mu.Lock()
	s := b.session
	b.mu.Unlock()
	if s != nil {
		s.SetPlugins(b.plugins())
	}
}

// leases returns what the worker holds.
func (b *workbench) leases() []core.Lease {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]core.Lease, 0, len(b.hand))
	for _, h := range b.hand {
		out = append(out, h.item.Lease)
	}
	return out
}

// open takes over what a new session says of the leases.
func (b *workbench) open(s core.WorkSession) {
	missed, lost := s.Resumed()
	b.mu.Lock()
	b.session = s
	for _, l := range lost {
		b.dropLocked(l.Token)
	}
	b.mu.Unlock()
	b.take(missed)
}

// closed forgets a session that has ended.
func (b *workbench) closed(s core.WorkSession) {
	b.mu.Lock()
	b.session = nil
	b.mu.Unlock()
	if err := s.Close(); err != nil {
		b.e.log.Debug("closing the work stream", "err", err)
	}
}

// fill pulls whenever there is room, until the session or the bench ends.
func (b *workbench) fill(s core.WorkSession) error {
	for {
		free, ok := b.room(s)
		if !ok {
			<-b.sessionEnd(s)
			return core.Errorf("worker: work", core.CodeUnavailable, "the work stream ended")
		}
		items, err := s.Pull(b.ctx, core.PullBudget{Slots: free})
		if err != nil {
			return err
		}
		if err := b.e.act(); err != nil {
			return err
		}
		b.take(items)
	}
}

// sessionEnd returns a channel that is closed when the session or the bench ends:
// while draining, results still need the session.
func (b *workbench) sessionEnd(s core.WorkSession) <-chan struct{} {
	if d, ok := s.(interface{ Done() <-chan struct{} }); ok {
		merged := make(chan struct{})
		go func() {
			defer close(merged)
			select {
			case <-d.Done():
			case <-b.ctx.Done():
			}
		}()
		return merged
	}
	return b.ctx.Done()
}

const (
	quickWork = 20 * time.Millisecond // what a slot may have before it in items that are quick
	quickMost = 128                   // slots that quick items may count as
)

// capacity is how many slots the bench counts as: those it has, and for items so
// quick that asking for them costs more than working on them, as many as make a slot
// busy for quickWork. What a worker that dies makes others do again stays as little.
// mu is held.
func (b *workbench) capacity() int {
	if b.pace <= 0 {
		return b.slots
	}
	return max(b.slots, min(quickMost, b.slots*int(quickWork/b.pace)))
}

// room waits until the bench wants items and returns for how many slots. Every slot
// may have one item waiting behind the one it works on, so that no slot waits for
// the network. ok is false when nothing more is taken.
func (b *workbench) room(s core.WorkSession) (free int, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.ctx.Err() == nil && !b.closing && b.session == s {
		n := b.capacity()
		if want := 2*n - len(b.waiting) - b.running; want > 0 && len(b.hand) < 8*n {
			return (want + 1) / 2, true
		}
		b.cond.Wait()
	}
	return 0, false
}

// take puts items on the bench. A drain that has begun hands them back.
func (b *workbench) take(items []core.WorkItem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, it := range items {
		h := &inHand{item: it}
		b.hand[it.Lease.Token] = h
		b.waiting = append(b.waiting, h)
	}
	if len(items) > 0 {
		b.lastBusy = time.Now()
		b.e.busyState(true)
	}
	b.cond.Broadcast()
}

// dropLocked forgets an item whose lease is lost. mu is held.
func (b *workbench) dropLocked(token uint64) {
	h := b.hand[token]
	if h == nil {
		return
	}
	h.gone = true
	delete(b.hand, token)
	if h.cancel != nil {
		h.cancel()
	}
	for i, w := range b.waiting {
		if w == h {
			b.waiting = append(b.waiting[:i:i], b.waiting[i+1:]...)
			break
		}
	}
	b.cond.Broadcast()
}

// cancelJob stops what is in hand of a job. Its results would be refused.
func (b *workbench) cancelJob(job core.JobID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for token, h := range b.hand {
		if h.item.Job == job {
			b.dropLocked(token)
		}
	}
}

// busy returns how many items are in work and whether the work stream is open.
func (b *workbench) busy() (n int, open bool, seq uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s, ok := b.session.(interface{ Seq() uint64 }); ok {
		seq = s.Seq()
	}
	return b.running + len(b.waiting), b.session != nil, seq
}

// reopen ends the session, because the coordinator has none.
func (b *workbench) reopen() {
	b.mu.Lock()
	s := b.session
	b.mu.Unlock()
	if s == nil {
		return
	}
	if err := s.Close(); err != nil {
		b.e.log.Debug("closing the work stream", "err", err)
	}
}

// reportIdle turns the state running back into ready once nothing was in hand for
// two intervals: a change of state is durable at the coordinator, so it does not
// follow every item.
func (b *workbench) reportIdle() {
	calm := 2 * b.e.timing.HeartbeatInterval
	for sleep(b.ctx, calm/2) == nil {
		b.mu.Lock()
		idle := len(b.hand) == 0 && !b.closing && time.Since(b.lastBusy) > calm
		if len(b.hand) > 0 {
			b.lastBusy = time.Now()
		}
		b.mu.Unlock()
		if idle {
			b.e.busyState(false)
		}
	}
}

// busyState tells whether the worker has work, unless it is on its way out.
func (e *epoch) busyState(busy bool) {
	from, to := core.StateReady, core.StateRunning
	if !busy {
		from, to = to, from
	}
	e.mu.Lock()
	changed := e.state == from
	if changed {
		e.state = to
	}
	e.mu.Unlock()
	if changed {
		e.beatNow()
	}
}
