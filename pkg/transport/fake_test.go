package transport

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// fakeCore is a small, true coordinator without liveness: it keeps epochs, commands
// and keys in memory and refuses what the contracts refuse.
type fakeCore struct {
	run   core.RunID
	epoch uint64
	token string

	mu       sync.Mutex // guards the fields below
	epochs   map[core.WorkerID]uint64
	keys     map[core.WorkerID][]byte
	last     map[core.WorkerID]core.Registration
	final    map[core.WorkerID]core.WorkerState
	commands map[core.WorkerID][]core.Command
	subs     map[core.WorkerID]*fakeSub
	acks     []core.CommandResult
	beats    []core.Heartbeat
	keep     bool  // keep beats
	calls    int   // handlers that were reached
	fail     error // what Register answers when set
	beatErr  func(core.Heartbeat) error
	hold     chan struct{} // when set, Register waits for it
	holding  chan struct{} // told when Register waits

	gone   chan core.WorkerRef
	events []core.StoredEvent
	backup []byte
}

type fakeSub struct {
	wake   chan struct{}
	cancel context.CancelCauseFunc
}

func newFakeCore(run core.RunID, epoch uint64, token string) *fakeCore {
	return &fakeCore{
		run: run, epoch: epoch, token: token,
		epochs: map[core.WorkerID]uint64{}, keys: map[core.WorkerID][]byte{}, last: map[core.WorkerID]core.Registration{},
		final: map[core.WorkerID]core.WorkerState{}, commands: map[core.WorkerID][]core.Command{}, subs: map[core.WorkerID]*fakeSub{},
		gone: make(chan core.WorkerRef, 1024),
	}
}

func (f *fakeCore) services() Services {
	return Services{Registry: f, Beats: f, Control: f, Enroller: f, Admin: f}
}

// reached counts a handler that ran.
func (f *fakeCore) reached() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
}

func (f *fakeCore) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls
}

func (f *fakeCore) check(w core.WorkerRef) error {
	switch have := f.epochs[w.ID]; {
	case have == 0:
		return core.Errorf("check", core.CodeFenced, "worker %s is not registered", w.ID)
	case w.Epoch != have:
		return core.Errorf("check", core.CodeFenced, "epoch %d is over, %d is registered", w.Epoch, have)
	}
	return nil
}

func (f *fakeCore) Register(ctx context.Context, r core.Registration) (core.Registered, error) {
	f.reached()
	f.mu.Lock()
	hold, holding := f.hold, f.holding
	f.mu.Unlock()
	if hold != nil {
		holding <- struct{}{}
		<-hold
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail != nil {
		return core.Registered{}, f.fail
	}
	if r.ProtocolMin > 1 {
		return core.Registered{}, core.Errorf("register", core.CodeVersionMismatch, "we speak 1 to 1, you %d to %d", r.ProtocolMin, r.ProtocolMax)
	}
	f.epochs[r.ID]++
	f.last[r.ID] = r
	return core.Registered{
		Run: f.run, Epoch: f.epochs[r.ID], CoordinatorEpoch: f.epoch, Timing: core.DefaultTiming(time.Second), Protocol: 1,
		CommandSeq: 3,
	}, nil
}

func (f *fakeCore) Deregister(_ context.Context, w core.WorkerRef, final core.WorkerState, _ string) error {
	f.reached()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(w); err != nil {
		return err
	}
	f.final[w.ID] = final
	return nil
}

func (f *fakeCore) Beat(_ context.Context, h core.Heartbeat) (core.BeatAck, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls++
	if f.beatErr != nil {
		if err := f.beatErr(h); err != nil {
			return core.BeatAck{}, err
		}
	}
	if err := f.check(h.Worker); err != nil {
		return core.BeatAck{}, err
	}
	if f.keep {
		f.beats = append(f.beats, h)
	}
	return core.BeatAck{Seq: h.Seq, CoordinatorEpoch: f.epoch, ReceivedAt: time.Unix(7, 9).UTC()}, nil
}

func (f *fakeCore) Disconnected(w core.WorkerRef, _ string) {
	select {
	case f.gone <- w:
	default: // more than any test looks at
	}
}

func (f *fakeCore) Subscribe(ctx context.Context, w core.WorkerRef, after uint64, send func(core.Command) error) error {
	f.reached()
	ctx, cancel := context.WithCancelCause(ctx)
	sub := &fakeSub{wake: make(chan struct{}, 1), cancel: cancel}
	f.mu.Lock()
	if err := f.check(w); err != nil {
		f.mu.Unlock()
		return err
	}
	if old := f.subs[w.ID]; old != nil {
		old.cancel(core.Errorf("subscribe", core.CodeConflict, "a newer subscription took over"))
	}
	f.subs[w.ID] = sub
	f.mu.Unlock()
	for {
		f.mu.Lock()
		var todo []core.Command
		for _, c := range f.commands[w.ID] {
			if c.Seq > after {
				todo = append(todo, c)
			}
		}
		f.mu.Unlock()
		for _, c := range todo {
			if err := send(c); err != nil {
				return err
			}
			after = c.Seq
		}
		select {
		case <-sub.wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// order stores a command and wakes the worker's subscription.
func (f *fakeCore) order(id core.WorkerID, c core.Command) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	c.Seq = uint64(len(f.commands[id]) + 1)
	f.commands[id] = append(f.commands[id], c)
	if s := f.subs[id]; s != nil {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return c.Seq
}

func (f *fakeCore) Acknowledge(_ context.Context, r core.CommandResult) error {
	f.reached()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.check(r.Worker); err != nil {
		return err
	}
	f.acks = append(f.acks, r)
	return nil
}

func (f *fakeCore) Admit(_ context.Context, e core.Enrolment) error {
	f.reached()
	f.mu.Lock()
	defer f.mu.Unlock()
	if bound := f.keys[e.ID]; e.Renewal && (len(e.HeldKey) == 0 || bound != nil && !bytes.Equal(e.HeldKey, bound)) {
		return core.Errorf("", core.CodePermissionDenied, "the renewal shows another key than the one that is bound")
	}
	if !e.Renewal && string(e.Token.Reveal()) != f.token {
		return core.Errorf("admit", core.CodeUnauthenticated, "the join token is wrong")
	}
	if k := f.keys[e.ID]; k != nil && !bytes.Equal(k, e.PublicKey) && !e.Renewal {
		return core.Errorf("admit", core.CodePermissionDenied, "the id is bound to another key: rollout workers forget %s", e.ID)
	}
	f.keys[e.ID] = bytes.Clone(e.PublicKey)
	return nil
}

func (f *fakeCore) Status(context.Context) (core.Status, error) {
	f.reached()
	return core.Status{
		Run: f.run, Epoch: f.epoch, Version: "v1", Addr: "a:1", Protocol: "h2", StartedAt: time.Unix(5, 6).UTC(),
		Timing: core.DefaultTiming(time.Second), Workers: map[core.Liveness]int{core.LivenessAlive: 2}, Revision: 9, StoreBytes: 4096, MassFailure: true,
	}, nil
}

func (f *fakeCore) Workers(context.Context) ([]core.WorkerRow, error) {
	f.reached()
	f.mu.Lock()
	defer f.mu.Unlock()
	var rows []core.WorkerRow
	for id, e := range f.epochs {
		rows = append(rows, core.WorkerRow{
			ID: id, State: core.StateReady, Liveness: core.LivenessAlive, Epoch: e, Addr: f.last[id].Addr, Version: "v", RegisteredAt: time.Unix(1, 2).UTC(),
			LastSeenAt: time.Unix(3, 4).UTC(), BeatSeq: 5, Slots: 6, SlotsBusy: 1, SkewMS: -7, CertSerial: f.last[id].CertSerial,
			Inventory: f.last[id].Inventory, Plugins: []core.LoadedPlugin{{Name: "p", Version: "1", Digest: "ab", Mode: core.ModeSO}},
		})
	}
	return rows, nil
}

func (f *fakeCore) ForgetWorker(_ context.Context, id core.WorkerID) error {
	f.reached()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.epochs[id] == 0 {
		return core.Errorf("forget", core.CodeNotFound, "no worker %s", id)
	}
	delete(f.epochs, id)
	delete(f.keys, id)
	return nil
}

func (f *fakeCore) SendCommand(_ context.Context, id core.WorkerID, cmd core.Command) (uint64, error) {
	f.reached()
	return f.order(id, cmd), nil
}

func (f *fakeCore) AwaitCommand(ctx context.Context, id core.WorkerID, seq uint64) (core.CommandResult, error) {
	f.reached()
	if seq == 99 {
		<-ctx.Done()
		return core.CommandResult{}, context.Cause(ctx)
	}
	return core.CommandResult{Worker: core.WorkerRef{ID: id, Epoch: 4}, Seq: seq, Code: core.CodePluginContract, Detail: "no"}, nil
}

func (f *fakeCore) Events(ctx context.Context, after uint64, follow bool, send func(core.StoredEvent) error) error {
	f.reached()
	for _, e := range f.events {
		if e.Seq > after {
			if err := send(e); err != nil {
				return err
			}
		}
	}
	if follow {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return nil
}

func (f *fakeCore) NewToken(_ context.Context, spec core.TokenSpec) (core.Secret, error) {
	f.reached()
	return core.NewSecret(fmt.Appendf(nil, "%v/%d", spec.TTL, spec.Uses)), nil
}

func (f *fakeCore) Backup(_ context.Context, w io.Writer) (int64, error) {
	f.reached()
	n, err := w.Write(f.backup)
	return int64(n), err
}
