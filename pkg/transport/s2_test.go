package transport

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// TestS2IdentityBinding shows the certificate of one worker and speaks for another,
// on every method, on the first message of a stream and on a later one.
func TestS2IdentityBinding(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		for _, breach := range speakForAnother(t, newHarness(t, p)) {
			t.Error(breach)
		}
	})
}

// TestS2MissingCheckIsSeen plants the bug that the binding is for.
func TestS2MissingCheckIsSeen(t *testing.T) {
	h := newHarness(t, ProtocolH2, func(c *Config, _ *AuthorityConfig) { c.planted.binding = true })
	if breaches := speakForAnother(t, h); len(breaches) < 8 {
		t.Errorf("without the check only %d breaches are seen: %v", len(breaches), breaches)
	}
}

// speakForAnother returns what got through.
func speakForAnother(t *testing.T, h *harness) (breaches []string) {
	t.Helper()
	breach := func(format string, args ...any) { breaches = append(breaches, fmt.Sprintf(format, args...)) }
	a, b := core.NewWorkerID(), core.NewWorkerID()
	cc := h.rawConn(h.showing(h.forge(h.auth, workerTemplate(h.core.run, a), time.Hour, time.Time{})))
	ctx := ctxFor(t)
	if _, err := transportv1.NewRegistryClient(cc).Register(ctx, &transportv1.RegisterRequest{WorkerId: a.String(), ProtocolMax: 1}); err != nil {
		t.Fatal(err)
	}
	reg, hb, ctl := transportv1.NewRegistryClient(cc), transportv1.NewHeartbeatClient(cc), transportv1.NewControlClient(cc)
	calls := map[string]func(id string) error{
		"Register": func(id string) error {
			_, err := reg.Register(ctx, &transportv1.RegisterRequest{WorkerId: id})
			return err
		},
		"Renew": func(id string) error { _, err := reg.Renew(ctx, &transportv1.RenewRequest{WorkerId: id}); return err },
		"Deregister": func(id string) error {
			_, err := reg.Deregister(ctx, &transportv1.DeregisterRequest{WorkerId: id, Epoch: 1, FinalState: 5})
			return err
		},
		"Beat": func(id string) error {
			_, err := hb.Beat(ctx, &transportv1.BeatRequest{WorkerId: id, Epoch: 1, Seq: 1, State: 2})
			return err
		},
		"Stream, first message": func(id string) error {
			s, err := hb.Stream(ctx)
			if err != nil {
				return err
			}
			return exchange(s, id)
		},
		"Stream, later message": func(id string) error {
			s, err := hb.Stream(ctx)
			if err != nil {
				return err
			}
			for range 3 {
				if err := exchange(s, a.String()); err != nil && !h.srv.cfg.planted.binding { // a breach may have fenced a
					t.Errorf("an honest beat: %v", err)
				}
			}
			return exchange(s, id)
		},
		"Subscribe": func(id string) error {
			s, err := ctl.Subscribe(ctx, &transportv1.SubscribeRequest{WorkerId: id, Epoch: 1})
			if err != nil {
				return err
			}
			_, err = s.Recv()
			return err
		},
		"Acknowledge": func(id string) error {
			_, err := ctl.Acknowledge(ctx, &transportv1.AcknowledgeRequest{WorkerId: id, Epoch: 1, Seq: 1})
			return err
		},
	}
	// In this order Register comes before Subscribe: where the check is missing it ends
	// the epoch that Subscribe would wait for commands of.
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		for _, id := range []string{b.String(), "", "nobody"} {
			logged := h.log.count("message refused")
			if err := calls[name](id); !core.IsCode(err, core.CodePermissionDenied) {
				breach("%s as %q: %v, want permission denied", name, id, err)
			}
			if h.log.count("message refused") != logged+1 {
				breach("%s as %q was not logged", name, id)
			}
		}
	}
	h.core.mu.Lock()
	defer h.core.mu.Unlock()
	if h.core.epochs[b] != 0 || len(h.core.final) != 0 {
		breach("a call for another worker had an effect")
	}
	return breaches
}

func exchange(s grpc.BidiStreamingClient[transportv1.BeatRequest, transportv1.BeatResponse], id string) error {
	if err := s.Send(&transportv1.BeatRequest{WorkerId: id, Epoch: 1, Seq: 1, State: 2}); err != nil && !isEOF(err) {
		return err
	}
	_, err := s.Recv()
	return err
}

// TestS2DuplicateLogin registers one id from two machines: the older epoch is
// fenced on its next beat.
func TestS2DuplicateLogin(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		w1, ref1 := h.registered()
		s1, err := w1.OpenHeartbeat(ctxFor(t), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s1.Close()
		if _, err := s1.Beat(ctxFor(t), beat(ref1, 1)); err != nil {
			t.Fatal(err)
		}
		w2 := h.dial(h.client(w1.cfg.Identity))
		r, err := w2.Register(ctxFor(t), core.Registration{ID: ref1.ID, ProtocolMax: 1})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s1.Beat(ctxFor(t), beat(ref1, 2)); !core.IsCode(err, core.CodeFenced) {
			t.Errorf("the older epoch beats on: %v", err)
		}
		if _, err := w2.Beat(ctxFor(t), beat(core.WorkerRef{ID: ref1.ID, Epoch: r.Epoch}, 1)); err != nil {
			t.Errorf("the newer epoch: %v", err)
		}
	})
}

// TestEnrolment follows an id from its first key to a refusal.
func TestEnrolment(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		h := newHarness(t, p)
		id := core.NewWorkerID()
		first := h.identity(id)
		if err := Enrol(ctxFor(t), h.client(first)); err != nil || !first.Valid() {
			t.Fatalf("enrol: %v, valid %v", err, first.Valid())
		}
		if life := time.Until(first.NotAfter()); life > WorkerLife || life < WorkerLife-time.Minute {
			t.Errorf("the certificate lasts %v, want %v", life, WorkerLife)
		}
		if err := first.Discard(); err != nil {
			t.Fatal(err)
		}
		if err := Enrol(ctxFor(t), h.client(first)); err != nil {
			t.Errorf("the same key again: %v", err)
		}
		thief, err := OpenIdentity(t.TempDir()+"/thief", id)
		if err != nil {
			t.Fatal(err)
		}
		err = Enrol(ctxFor(t), h.client(thief))
		wantCode(t, err, core.CodePermissionDenied)
		if !IsRefused(err) || thief.Valid() {
			t.Errorf("another key for the same id: %v", err)
		}
		h.core.mu.Lock()
		h.core.token = "changed"
		h.core.mu.Unlock()
		stranger := h.identity(core.NewWorkerID())
		err = Enrol(ctxFor(t), h.client(stranger))
		wantCode(t, err, core.CodeUnauthenticated)
		if !IsRefused(err) {
			t.Errorf("a wrong token: %v", err)
		}
	})
}

func TestEnrolmentLimits(t *testing.T) {
	h := newHarness(t, ProtocolH2)
	cc := h.rawConn(h.showing(nil))
	call := func(m *transportv1.EnrollRequest) error {
		_, err := transportv1.NewRegistryClient(cc).Enroll(ctxFor(t), m)
		return err
	}
	wantCode(t, call(&transportv1.EnrollRequest{WorkerId: core.NewWorkerID().String(), Csr: make([]byte, 8<<10), Token: "x"}), core.CodeTooLarge)
	wantCode(t, call(&transportv1.EnrollRequest{WorkerId: "x", Token: "x"}), core.CodeInvalidArgument)
	wantCode(t, call(&transportv1.EnrollRequest{WorkerId: core.NewWorkerID().String()}), core.CodeUnauthenticated)
	wantCode(t, call(&transportv1.EnrollRequest{WorkerId: core.NewWorkerID().String(), Token: "x", Csr: []byte("x")}), core.CodeInvalidArgument)
	var err error
	for range 1000 {
		if err = call(&transportv1.EnrollRequest{WorkerId: "x"}); !core.IsCode(err, core.CodeInvalidArgument) {
			break
		}
	}
	wantCode(t, err, core.CodeThrottled)
	if core.RetryOf(err).Kind != core.RetryBackoff {
		t.Errorf("too many enrolments carry the hint %+v", core.RetryOf(err))
	}
	if h.core.count() != 0 {
		t.Errorf("%d requests reached the enroller", h.core.count())
	}
}
