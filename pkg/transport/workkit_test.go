package transport

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/coordinator/jobs"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// workHarness is a coordinator's side of work behind real sockets: a book of jobs
// on a queue, and an object store.
type workHarness struct {
	*harness
	cfg     Config
	store   core.Storage
	objects *cloudlocal.Objects
	queue   *cloudlocal.Queue
	book    *jobs.Book
	halt    func() error // of the server
	conns   map[core.WorkerID]*WorkerConn
}

func newWorkHarness(t testing.TB, p Protocol, store core.Storage) *workHarness {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "d")
	ac := AuthorityConfig{Dir: filepath.Join(dir, "tls")}
	ac.Run = copyAuthority(t, ac.Dir)
	w := &workHarness{
		harness: &harness{t: t, dir: dir, proto: p, log: &logSink{Handler: slog.DiscardHandler}}, store: store, conns: map[core.WorkerID]*WorkerConn{},
	}
	w.cfg = Config{Addr: "127.0.0.1:0", Protocol: p, Epoch: 1000, Logger: slog.New(w.log)}
	var err error
	if w.auth, err = OpenAuthority(ac); err != nil {
		t.Fatal(err)
	}
	w.cfg.Authority = w.auth
	w.harness.core = newFakeCore(ac.Run, w.cfg.Epoch, string(w.auth.JoinToken().Reveal()))
	if w.objects, err = cloudlocal.OpenObjects(t.Context(), cloudlocal.ObjectsConfig{Root: filepath.Join(dir, "objects")}); err != nil {
		t.Fatal(err)
	}
	if err := w.open(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, c := range w.conns {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
		if err := errors.Join(w.close(), w.objects.Close(), store.Close()); err != nil {
			t.Error(err)
		}
	})
	return w
}

// open starts everything on the rows that are there.
func (w *workHarness) open() (err error) {
	ctx := context.Background()
	quiet := slog.New(slog.DiscardHandler)
	w.queue, err = cloudlocal.OpenQueue(ctx, cloudlocal.QueueConfig{
		Storage: w.store, Objects: w.objects, Logger: quiet, InlineBytes: core.MaxInlinePayload + 8<<10,
		RetryFloor: time.Millisecond, RetryBase: time.Millisecond, RetryMax: time.Millisecond,
	})
	if err != nil {
		return err
	}
	if w.book, err = jobs.Open(ctx, jobs.Config{Storage: w.store, Queue: w.queue, Objects: w.objects, Record: w.record, Logger: quiet}); err != nil {
		return err
	}
	s := w.harness.core.services()
	s.Work, s.Jobs, s.Objects = w.book, w.book, w.objects
	if w.srv, err = NewServer(w.cfg, s); err != nil {
		return err
	}
	w.cfg.Addr = w.srv.Addr() // of the next one too
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	srv := w.srv
	go func() { done <- srv.Run(run) }()
	w.halt = func() error { cancel(); return <-done }
	return nil
}

// close ends the sessions before the server, as a coordinator does.
func (w *workHarness) close() error {
	return errors.Join(w.book.Close(), w.halt(), w.queue.Close())
}

func (w *workHarness) record(ctx context.Context, writes []core.Write, _ ...core.Event) error {
	if len(writes) == 0 {
		return nil
	}
	_, err := core.Update(ctx, w.store, func(tx core.Txn) error {
		for _, wr := range writes {
			var err error
			if wr.Delete {
				err = tx.Delete(wr.Key)
			} else {
				err = tx.Put(wr.Key, wr.Value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
	return err
}

// conn returns the one connection of a worker.
func (w *workHarness) conn(id core.WorkerID) (*WorkerConn, error) {
	if c := w.conns[id]; c != nil {
		return c, nil
	}
	c, err := DialWorker(w.client(w.issued(id, time.Hour)))
	if err == nil {
		w.conns[id] = c
	}
	return c, err
}

// patientLink attaches again while the coordinator is away, as a worker does.
type patientLink struct{ *WorkerConn }

func (l patientLink) Attach(ctx context.Context, ref core.WorkerRef, plugins []core.LoadedPlugin, holding []core.Lease) (core.WorkSession, error) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := l.WorkerConn.Attach(ctx, ref, plugins, holding)
		if !core.IsCode(err, core.CodeUnavailable) && !core.IsCode(err, core.CodeClosed) {
			return s, err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// TestWorkKit runs the kit over the wire; package jobs runs it without.
func TestWorkKit(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		t.Parallel()
		coretest.RunWork(t, func(t *testing.T) *coretest.WorkFixture {
			w := newWorkHarness(t, p, memstore.New(memstore.Options{}))
			return &coretest.WorkFixture{
				Jobs: w.admin(),
				Work: func(id core.WorkerID) (coretest.WorkLink, error) {
					c, err := w.conn(id)
					return patientLink{c}, err
				},
				Break: func(s core.WorkSession) error {
					s.(*WorkStream).end(core.Errorf("", core.CodeUnavailable, "the network is gone"))
					return nil
				},
				Release: func(ref core.WorkerRef, loss bool) error {
					_, err := w.book.ReleaseWorker(context.Background(), ref, loss, "the check says so")
					return err
				},
				Restart: func() error { return errors.Join(w.close(), w.open()) },
			}
		})
	})
}
