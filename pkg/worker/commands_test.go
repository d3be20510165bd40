package worker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// reloader is an executor that can do all that commands ask for.
type reloader struct{ recorder }

func (r *reloader) Reload(_ context.Context, plugin string) error {
	r.note("reload-" + plugin)
	if plugin == "bad" {
		return core.Errorf("reload", core.CodePluginContract, "mode so")
	}
	return nil
}

func (r *reloader) Cancel(_ context.Context, job core.JobID) error {
	r.note("cancel")
	return nil
}

func codes(acks []core.CommandResult) map[uint64]core.Code {
	out := map[uint64]core.Code{}
	for _, a := range acks {
		out[a.Seq] = a.Code
	}
	return out
}

func TestCommandsAreCarriedOutInOrderAndAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, x := newFake(), &reloader{}
		f.pending = []core.Command{
			{Seq: 1, Kind: core.CommandReload, Plugin: "good"},
			{Seq: 2, Kind: core.CommandReload, Plugin: "bad"},
			{Seq: 3, Kind: core.CommandCancel},
			{Seq: 4, Kind: "dance"},
			{Seq: 5, Kind: core.CommandDrain, Reason: "update"},
		}
		r := start(t, f, func(c *Config) { c.Executor, c.HotReload = x, true })
		if err := <-r.done; err != nil {
			t.Fatal(err)
		}
		want := map[uint64]core.Code{1: 0, 2: core.CodePluginContract, 3: 0, 4: core.CodeUnsupported, 5: 0}
		if diff := cmp.Diff(want, codes(f.acks)); diff != "" {
			t.Errorf("acknowledged (-want +got):\n%s", diff)
		}
		if len(f.deregister) != 1 {
			t.Errorf("deregistered %v", f.deregister)
		}
	})
}

func TestReloadWithoutHotReloadIsRefusedWithAReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.pending = []core.Command{{Seq: 1, Kind: core.CommandReload, Plugin: "p"}}
		r := start(t, f, nil)
		f.until(func() bool { return len(f.acks) == 1 })
		if a := f.acks[0]; a.Code != core.CodeFailedPrecondition || a.Detail == "" {
			t.Errorf("the answer is %+v", a)
		}
		if err := r.leaveNow(); err != nil {
			t.Error(err)
		}
	})
}

func TestCommandsSurviveABrokenStreamAndAnEpoch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, x := newFake(), &reloader{}
		r := start(t, f, func(c *Config) { c.Executor, c.HotReload = x, true })
		f.until(f.isReady)
		for seq := range uint64(6) {
			f.set(func() {
				f.pending = append(f.pending, core.Command{Seq: seq + 1, Kind: core.CommandReload, Plugin: "p"})
				if f.subscribed != nil {
					close(f.subscribed)
					f.subscribed = nil
				}
				f.upCut = seq == 3 // long enough for an epoch
			})
			time.Sleep(3 * testH)
			f.set(func() { f.upCut = false })
		}
		f.until(func() bool { return len(f.acks) == 6 })
		if got, want := x.noted(), "reload-p"; countWords(got, want) != 6 {
			t.Errorf("carried out as %q", got)
		}
		if err := r.leaveNow(); err != nil {
			t.Error(err)
		}
	})
}

func countWords(s, word string) (n int) {
	for i := 0; i+len(word) <= len(s); i++ {
		if s[i:i+len(word)] == word {
			n++
		}
	}
	return n
}

func TestACoordinatorRestoredFromACopyCountsFromThere(t *testing.T) {
	c := newCommands()
	c.registered(3)
	for seq := uint64(1); seq <= 6; seq++ {
		if err := c.take(t.Context(), core.Command{Seq: seq}); err != nil {
			t.Fatal(err)
		}
	}
	if len(c.queue) != 3 || c.lastSeen() != 6 {
		t.Errorf("%d commands wait, the last seen is %d", len(c.queue), c.lastSeen())
	}
	c.confirmed(5)
	c.registered(5)
	if c.lastSeen() != 6 {
		t.Errorf("the last seen is %d after a new epoch", c.lastSeen())
	}
	c.registered(2)
	if c.lastSeen() != 2 {
		t.Errorf("the last seen is %d after a restore", c.lastSeen())
	}
}
