package worker

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

func TestAWorkerTellsHowItFares(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.dialErr = core.Errorf("dial", core.CodeUnavailable, "nobody listens")
		r := prepare(t, f, nil)
		p := &Process{n: r.node}
		if err := p.Alive(); !core.IsCode(err, core.CodeUnavailable) {
			t.Errorf("before it runs: %v", err)
		}
		r.run()
		time.Sleep(time.Hour) // waiting for a coordinator is life
		if s := p.Status(); s.ID != r.rec.ID || s.Epoch != 0 || p.Alive() != nil {
			t.Errorf("while it waits: %+v, %v", s, p.Alive())
		}
		f.set(func() { f.dialErr = nil })
		<-p.Ready()
		synctest.Wait()
		if s := p.Status(); s.Epoch != 1 || s.State != core.StateReady || p.Alive() != nil {
			t.Errorf("when it is ready: %+v, %v", s, p.Alive())
		}
		f.set(func() { f.upCut = true })
		time.Sleep(time.Hour) // so is waiting for it to come back
		if err := p.Alive(); err != nil {
			t.Errorf("while it is cut off: %v", err)
		}
		f.set(func() { f.upCut = false })
		if err := r.leaveNow(); err != nil {
			t.Error(err)
		}
	})
}

// stuckLister hangs in the middle of a beat.
type stuckLister struct {
	idle
	stuck   atomic.Bool
	release chan struct{}
}

func (l *stuckLister) LoadedPlugins() []core.LoadedPlugin {
	if l.stuck.Load() {
		<-l.release
	}
	return nil
}

func TestAWorkerWhoseBeatsHangIsNotAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, l := newFake(), &stuckLister{release: make(chan struct{})}
		r := start(t, f, func(c *Config) { c.Executor = l })
		p := &Process{n: r.node}
		f.until(f.isReady)
		time.Sleep(10 * testH)
		if err := p.Alive(); err != nil {
			t.Errorf("while it beats: %v", err)
		}
		l.stuck.Store(true)
		time.Sleep(5*testH + lateAfter)
		if err := p.Alive(); !core.IsCode(err, core.CodeUnavailable) {
			t.Errorf("while it hangs: %v", err)
		}
		l.stuck.Store(false)
		close(l.release)
		f.until(func() bool { return len(f.registered) == 2 && f.isReady() })
		if err := p.Alive(); err != nil {
			t.Errorf("when it goes on: %v", err)
		}
		if err := r.leaveNow(); err != nil {
			t.Error(err)
		}
	})
}

func TestAProcessRunsOnce(t *testing.T) {
	store := memstore.New(memstore.Options{})
	defer store.Close()
	dir := t.TempDir()
	p, err := New(t.Context(), Config{Store: store, IdentityDir: dir + "/id", TLSDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := p.Run(ctx); err != nil {
		t.Errorf("told to stop at once it ends with %v", err)
	}
	if err := p.Run(t.Context()); !core.IsCode(err, core.CodeFailedPrecondition) {
		t.Errorf("a second run: %v", err)
	}
	if _, err := New(t.Context(), Config{}); !core.IsCode(err, core.CodeInvalidArgument) && !core.IsCode(err, core.CodeConfigInvalid) {
		t.Errorf("without a store: %v", err)
	}
}
