package transport

import (
	"bytes"
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestRegistryTravels(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		w, id := h.worker()
		in := core.Registration{
			ID: id, PrevEpoch: 7, Version: "v9", ProtocolMin: 1, ProtocolMax: 3, Slots: 5, RestartReason: "fenced",
			Inventory: core.Inventory{Hostname: "h", Notes: []string{"n"}, GPUs: []core.GPUInfo{{Index: 1, UUID: "u"}}},
		}
		out, err := w.Register(ctxFor(t), in)
		if err != nil {
			t.Fatal(err)
		}
		want := core.Registered{Run: h.core.run, Epoch: 1, CoordinatorEpoch: 1000, Timing: core.DefaultTiming(time.Second), Protocol: 1, CommandSeq: 3}
		if out != want {
			t.Errorf("registered as %+v, want %+v", out, want)
		}
		h.core.mu.Lock()
		got := h.core.last[id]
		h.core.mu.Unlock()
		if got.Addr == "" || got.CertSerial != w.cfg.Identity.Serial() {
			t.Errorf("the server set address %q and serial %q, want the connection's", got.Addr, got.CertSerial)
		}
		got.Addr, got.CertSerial = "", ""
		if !reflect.DeepEqual(got, in) {
			t.Errorf("registration arrived as %+v, want %+v", got, in)
		}
		ref := core.WorkerRef{ID: id, Epoch: 1}
		if err := w.Deregister(ctxFor(t), ref, core.StateDone, "bye"); err != nil {
			t.Errorf("deregister: %v", err)
		}
		h.core.mu.Lock()
		final := h.core.final[id]
		h.core.mu.Unlock()
		if final != core.StateDone {
			t.Errorf("the final state arrived as %q", final)
		}
		wantCode(t, w.Deregister(ctxFor(t), ref, core.StateReady, ""), core.CodeInvalidArgument)
		_, err = w.Register(ctxFor(t), core.Registration{ID: id, ProtocolMin: 8, ProtocolMax: 9})
		wantCode(t, err, core.CodeVersionMismatch)
		if !IsRefused(err) || !strings.Contains(err.Error(), "8 to 9") {
			t.Errorf("version mismatch reads %v", err)
		}
	})
}

func TestEveryErrorTravels(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		w, id := h.worker()
		for _, code := range core.Codes() {
			in := core.Errorf("register", code, "because of %d", code)
			h.core.mu.Lock()
			h.core.fail = in
			h.core.mu.Unlock()
			_, err := w.Register(ctxFor(t), core.Registration{ID: id, ProtocolMax: 1})
			if core.CodeOf(err) != code || core.RetryOf(err) != core.RetryOf(in) || !strings.Contains(err.Error(), in.Err.Error()) {
				t.Errorf("%v arrives as %v: %v", code, core.CodeOf(err), err)
			}
		}
	})
}

func TestBeats(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		h.core.keep = true
		w, ref := h.registered()
		full := core.Heartbeat{
			Worker: ref, Seq: 1, SentAt: time.Unix(3, 4).UTC(), State: core.StateRunning, ControlSeq: 5, WorkOpen: true, WorkSeq: 6, SlotsBusy: 7,
			Plugins: []core.LoadedPlugin{{Name: "a", Version: "1", Digest: "ff", Mode: core.ModeSidecar}},
		}
		ack, err := w.Beat(ctxFor(t), full)
		if err != nil || ack != (core.BeatAck{Seq: 1, CoordinatorEpoch: 1000, ReceivedAt: time.Unix(7, 9).UTC()}) {
			t.Fatalf("unary beat: %+v, %v", ack, err)
		}
		acked := make(chan core.BeatAck, 16)
		s, err := w.OpenHeartbeat(context.Background(), func(a core.BeatAck) { acked <- a })
		if err != nil {
			t.Fatal(err)
		}
		none := beat(ref, 3)
		none.Plugins = []core.LoadedPlugin{}
		for _, b := range []core.Heartbeat{beat(ref, 2), none} {
			if ack, err := s.Beat(ctxFor(t), b); err != nil || ack.Seq != b.Seq {
				t.Fatalf("beat %d: %+v, %v", b.Seq, ack, err)
			}
			if a := within(t, "onAck", acked); a.Seq != b.Seq {
				t.Errorf("onAck was told %d, want %d", a.Seq, b.Seq)
			}
		}
		want := []core.Heartbeat{full, beat(ref, 2), none}
		h.core.mu.Lock()
		beats := h.core.beats
		h.core.mu.Unlock()
		if !reflect.DeepEqual(beats, want) {
			t.Errorf("beats arrived as %+v, want %+v", beats, want)
		}
		if _, err := s.Beat(ctxFor(t), core.Heartbeat{Worker: ref, Seq: 4, State: "odd"}); !core.IsCode(err, core.CodeInvalidArgument) {
			t.Errorf("a beat in an unknown state: %v", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if got := within(t, "Disconnected", h.core.gone); got != ref {
			t.Errorf("disconnected %+v, want %+v", got, ref)
		}
		if _, err := s.Beat(ctxFor(t), beat(ref, 5)); err == nil || s.Err() == nil {
			t.Error("a closed stream takes beats")
		}
	})
}

func TestRefusedBeatKeepsStream(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		h.core.beatErr = func(b core.Heartbeat) error {
			if b.Seq == 2 {
				return core.Errorf("beat", core.CodeFailedPrecondition, "reopen control")
			}
			return nil
		}
		w, ref := h.registered()
		s, err := w.OpenHeartbeat(context.Background(), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for seq := uint64(1); seq <= 3; seq++ {
			_, err := s.Beat(ctxFor(t), beat(ref, seq))
			if want := seq == 2; core.IsCode(err, core.CodeFailedPrecondition) != want || (err != nil) != want {
				t.Fatalf("beat %d: %v", seq, err)
			}
		}
		old := ref
		old.Epoch++
		_, err = s.Beat(ctxFor(t), beat(old, 4))
		wantCode(t, err, core.CodeFenced)
		eventually(t, "the fenced stream ends", func() bool { return s.Err() != nil })
		wantCode(t, s.Err(), core.CodeFenced)
		select {
		case got := <-h.core.gone:
			t.Errorf("fencing reported %+v as disconnected", got)
		default:
		}
	})
}

func TestLateAcknowledgementIsTold(t *testing.T) {
	h := newHarness(t, ProtocolH2)
	w, ref := h.registered()
	enter, leave := make(chan struct{}), make(chan struct{})
	h.core.beatErr = func(core.Heartbeat) error { enter <- struct{}{}; <-leave; return nil }
	acked := make(chan core.BeatAck, 1)
	s, err := w.OpenHeartbeat(context.Background(), func(a core.BeatAck) { acked <- a })
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-enter; cancel() }()
	_, err = s.Beat(ctx, beat(ref, 1))
	wantCode(t, err, core.CodeCanceled)
	close(leave)
	if a := within(t, "the late acknowledgement", acked); a.Seq != 1 {
		t.Errorf("told %+v", a)
	}
}

func TestCommands(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		w, ref := h.registered()
		job := core.NewJobID()
		sent := []core.Command{
			{Seq: 1, Kind: core.CommandCancel, Reason: "r", Job: job, IssuedAt: time.Unix(8, 1).UTC()},
			{Seq: 2, Kind: core.CommandReload, Plugin: "p", IssuedAt: time.Unix(8, 2).UTC()},
			{Seq: 3, Kind: core.CommandDrain, IssuedAt: time.Unix(8, 3).UTC()},
		}
		h.core.order(ref.ID, sent[0])
		got := make(chan core.Command, 8)
		ended := make(chan error, 2)
		opened := make(chan struct{})
		go func() {
			ended <- w.SubscribeOpen(ctxFor(t), ref, 0, func() { close(opened) }, func(c core.Command) error { got <- c; return nil })
		}()
		within(t, "open", opened)
		h.core.order(ref.ID, sent[1])
		h.core.order(ref.ID, sent[2])
		for _, want := range sent {
			if c := within(t, "command", got); c != want {
				t.Errorf("command arrived as %+v, want %+v", c, want)
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		go func() { ended <- w.Subscribe(ctx, ref, 2, func(c core.Command) error { got <- c; return nil }) }()
		if c := within(t, "command behind 2", got); c.Seq != 3 {
			t.Errorf("resumed with %+v, want command 3", c)
		}
		wantCode(t, within(t, "end of the older subscription", ended), core.CodeConflict)
		cancel()
		wantCode(t, within(t, "end of the cancelled subscription", ended), core.CodeCanceled)
		res := core.CommandResult{Worker: ref, Seq: 3, Code: core.CodeUnsupported, Detail: "cannot"}
		err := w.Acknowledge(ctxFor(t), res)
		h.core.mu.Lock()
		acks := h.core.acks
		h.core.mu.Unlock()
		if err != nil || len(acks) != 1 || acks[0] != res {
			t.Errorf("acknowledge: %v, arrived as %+v", err, acks)
		}
		old := core.WorkerRef{ID: ref.ID, Epoch: ref.Epoch + 9}
		wantCode(t, w.Subscribe(ctxFor(t), old, 0, nil), core.CodeFenced)
		boom := errors.New("boom")
		if err := w.Subscribe(ctxFor(t), ref, 0, func(core.Command) error { return boom }); !errors.Is(err, boom) {
			t.Errorf("an error of send comes back as %v", err)
		}
	})
}

func TestAdminTravels(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		_, ref := h.registered()
		a := h.admin()
		ctx := ctxFor(t)
		want, _ := h.core.Status(ctx)
		if st, err := a.Status(ctx); err != nil || !reflect.DeepEqual(st, want) {
			t.Errorf("status %+v, %v, want %+v", st, err, want)
		}
		rows, _ := h.core.Workers(ctx)
		if got, err := a.Workers(ctx); err != nil || !reflect.DeepEqual(got, rows) {
			t.Errorf("workers %+v, %v, want %+v", got, err, rows)
		}
		if seq, err := a.SendCommand(ctx, ref.ID, core.Command{Kind: core.CommandDrain}); err != nil || seq != 1 {
			t.Errorf("send command: %d, %v", seq, err)
		}
		_, err := a.SendCommand(ctx, ref.ID, core.Command{Kind: "dance"})
		wantCode(t, err, core.CodeInvalidArgument)
		res, err := a.AwaitCommand(ctx, ref.ID, 5)
		if err != nil || res != (core.CommandResult{Worker: core.WorkerRef{ID: ref.ID, Epoch: 4}, Seq: 5, Code: core.CodePluginContract, Detail: "no"}) {
			t.Errorf("await command: %+v, %v", res, err)
		}
		if tok, err := a.NewToken(ctx, core.TokenSpec{TTL: time.Minute, Uses: 3}); err != nil || string(tok.Reveal()) != "1m0s/3" {
			t.Errorf("new token: %q, %v", tok.Reveal(), err)
		}
		if err := a.ForgetWorker(ctx, ref.ID); err != nil {
			t.Errorf("forget: %v", err)
		}
		wantCode(t, a.ForgetWorker(ctx, ref.ID), core.CodeNotFound)
	})
}

func TestEventsAndBackup(t *testing.T) {
	h := newHarness(t, ProtocolH2)
	a := h.admin()
	for i := range 3 {
		h.core.events = append(h.core.events, core.StoredEvent{Seq: uint64(i + 1), Event: core.Event{
			Time: time.Unix(int64(i), 5).UTC(), Level: core.LevelWarn, Kind: core.EventDomain, Topic: core.TopicWorkerFailed, Attrs: core.Attrs{"n": float64(i)},
		}})
	}
	var got []core.StoredEvent
	if err := a.Events(ctxFor(t), 1, false, func(e core.StoredEvent) error { got = append(got, e); return nil }); err != nil || !reflect.DeepEqual(got, h.core.events[1:]) {
		t.Errorf("events %+v, %v, want %+v", got, err, h.core.events[1:])
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := 0
	err := a.Events(ctx, 0, true, func(core.StoredEvent) error {
		if n++; n == 3 {
			cancel()
		}
		return nil
	})
	wantCode(t, err, core.CodeCanceled)
	h.core.backup = bytes.Repeat([]byte("0123456789"), 200_000)
	var buf bytes.Buffer
	if n, err := a.Backup(ctxFor(t), &buf); err != nil || n != int64(len(h.core.backup)) || !bytes.Equal(buf.Bytes(), h.core.backup) {
		t.Errorf("backup: %d bytes, %v", n, err)
	}
}

func TestOlderCoordinatorIsRefused(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		cfg := h.client(h.issued(core.NewWorkerID(), time.Hour))
		cfg.Guard = NewEpochGuard(1001)
		w := h.dial(cfg)
		_, err := w.Register(ctxFor(t), core.Registration{ID: cfg.Identity.ID(), ProtocolMax: 1})
		wantCode(t, err, core.CodeFenced)
		ref := core.WorkerRef{ID: cfg.Identity.ID(), Epoch: 1}
		wantCode(t, w.Subscribe(ctxFor(t), ref, 0, nil), core.CodeFenced)
		s, err := w.OpenHeartbeat(ctxFor(t), nil)
		if err == nil {
			_, err = s.Beat(ctxFor(t), beat(ref, 1))
			defer s.Close()
		}
		wantCode(t, err, core.CodeFenced)
		if g := cfg.Guard.Epoch(); g != 1001 {
			t.Errorf("the guard forgot: %d", g)
		}
	})
}

// TestReplacedCoordinatorsWordIsNothing talks to a coordinator while a newer one shows
// itself elsewhere: neither its answers nor its refusals count from then on.
func TestReplacedCoordinatorsWordIsNothing(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		cfg := h.client(h.issued(core.NewWorkerID(), time.Hour))
		cfg.Guard = NewEpochGuard(0)
		w := h.dial(cfg)
		id := cfg.Identity.ID()
		r, err := w.Register(ctxFor(t), core.Registration{ID: id, ProtocolMax: 1})
		if err != nil {
			t.Fatal(err)
		}
		ref := core.WorkerRef{ID: id, Epoch: r.Epoch}
		s, err := w.OpenHeartbeat(ctxFor(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if _, err := s.Beat(ctxFor(t), beat(ref, 1)); err != nil {
			t.Fatal(err)
		}
		commands := make(chan error, 1)
		ended := make(chan error, 1)
		h.core.order(id, core.Command{Kind: core.CommandDrain})
		go func() {
			ended <- w.Subscribe(ctxFor(t), ref, 0, func(core.Command) error { commands <- nil; return nil })
		}()
		within(t, "the first command", commands)

		if err := cfg.Guard.Observe(1001); err != nil {
			t.Fatal(err)
		}
		replaced := func(what string, err error) {
			t.Helper()
			if !IsReplaced(err) {
				t.Errorf("%s: %v", what, err)
			}
		}
		h.core.order(id, core.Command{Kind: core.CommandDrain})
		replaced("a command", within(t, "the end of the subscription", ended))
		over := core.WorkerRef{ID: id, Epoch: r.Epoch + 7} // which the old coordinator calls fenced
		replaced("the end of an epoch", w.Deregister(ctxFor(t), over, core.StateDone, ""))
		_, err = w.Beat(ctxFor(t), beat(over, 2))
		replaced("a refused beat", err)
		_, err = s.Beat(ctxFor(t), beat(ref, 2))
		replaced("an answered beat", err)
		_, err = s.Beat(ctxFor(t), beat(over, 3))
		replaced("the end of a heartbeat stream", err)
	})
}

func TestPanicIsAnswered(t *testing.T) {
	h := newHarness(t, ProtocolH2)
	w, ref := h.registered()
	h.core.beatErr = func(core.Heartbeat) error { panic("planted") }
	_, err := w.Beat(ctxFor(t), beat(ref, 1))
	wantCode(t, err, core.CodeInternal)
	if strings.Contains(err.Error(), "planted") || h.log.count("handler panicked") != 1 {
		t.Errorf("a panic reads %v to the caller and is logged %d times", err, h.log.count("handler panicked"))
	}
}
