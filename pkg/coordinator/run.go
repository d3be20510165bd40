package coordinator

import (
	"context"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// openStore opens the store's file.
func openStore(cfg Config) (core.Storage, error) {
	s, err := storage.Open(context.Background(), storage.Config{Path: cfg.StoragePath, RepairMeta: true, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Run implements [core.Coordinator]. It is called once.
//
//	        workers, operators
//	               |
//	         server (transport)
//	    |          |            |
//	 beats     registry,      events
//	    |      commands         |
//	detection ---- writer --- outbox --- emitter
//	                 |
//	               store
//
// Every box is a part that [supervisor] watches: when one ends by itself, all end,
// and Run returns why. The order of the end is detection, server, upkeep, outbox,
// writer: nobody is declared dead because the server has stopped listening, and
// everything recorded is stored before the store closes.
func (c *Coordinator) Run(ctx context.Context) error {
	if c.running.Swap(true) {
		return core.Errorf("coordinator: run", core.CodeFailedPrecondition, "Run was called before")
	}
	err := c.serve(ctx)
	if c.ownsStore {
		if cerr := c.store.Close(); err == nil {
			err = core.WithOp("coordinator: close store", cerr)
		}
	}
	return err
}

func (c *Coordinator) serve(ctx context.Context) error {
	sup := newSupervisor(ctx, c.log)
	sup.start("store writer", c.writer.run)
	sup.start("event outbox", c.outbox.run)
	sup.start("epoch watch", c.watchEpoch)
	sup.start("upkeep", c.upkeep)
	if err := c.startServing(sup); err != nil {
		sup.fail(err)
	}
	<-sup.ctx.Done()

	close(c.stopping) // streams and waiting operators end
	sup.stop("detection")
	sup.stop("server")
	sup.stop("epoch watch")
	sup.stop("requeue")
	if c.work != nil {
		if err := c.work.Close(); err != nil {
			sup.fail(core.WithOp("coordinator: close the book of work", err))
		}
	}
	sup.stop("upkeep")
	c.finish(sup)
	sup.stop("event outbox")
	c.writer.close()
	sup.wait("store writer")
	return sup.cause()
}

// startServing opens the sockets and starts what needs them.
func (c *Coordinator) startServing(sup *supervisor) error {
	if err := c.startWork(sup.ctx); err != nil {
		return err
	}
	sup.start("requeue", c.returnOwed)
	c.watchRestored()
	addr := "none"
	if !c.unserved {
		srv, err := c.listen(sup.ctx)
		if err != nil {
			return err
		}
		sup.start("server", srv.Run)
		addr = srv.Addr()
	}
	sup.start("detection", c.detect)
	if c.part != nil {
		sup.start("planted", c.part)
	}
	c.announceStart(addr)
	return nil
}

// listen opens the CA and the sockets.
func (c *Coordinator) listen(ctx context.Context) (*transport.Server, error) {
	ca, err := transport.OpenAuthority(transport.AuthorityConfig{Dir: c.cfg.TLSDir, Run: c.run, Notice: c.cfg.Notice})
	if err != nil {
		return nil, err
	}
	if err := c.adoptToken(ctx, ca.JoinToken()); err != nil {
		return nil, err
	}
	services := transport.Services{Registry: c, Beats: c, Control: c, Enroller: c, Admin: c}
	if c.work != nil {
		services.Work, services.Jobs, services.Objects = c, c.work, c.cfg.Objects
	}
	return transport.NewServer(transport.Config{
		Addr: c.cfg.ListenAddr, Protocol: c.cfg.Protocol, ServerNames: c.cfg.ServerNames,
		Authority: ca, Epoch: c.epoch, Limits: c.cfg.Limits, Logger: c.log,
	}, services)
}

// announceStart tells that the coordinator serves.
func (c *Coordinator) announceStart(addr string) {
	c.mu.Lock()
	c.addr = addr
	c.mu.Unlock()
	c.log.Info("coordinator started", "addr", addr, "protocol", string(c.cfg.Protocol), "epoch", c.epoch, "restored_workers", c.restored)
	c.writer.submit(&op{must: true, prepare: func(_ context.Context, b *batch) error {
		b.event(c.event(core.TopicCoordinatorStarted, core.LevelInfo, core.WorkerID{}, c.lifeAttrs(addr)))
		return nil
	}})
	close(c.ready)
}

func (c *Coordinator) lifeAttrs(addr string) core.Attrs {
	return core.Attrs{"addr": addr, "protocol": string(c.cfg.Protocol), "epoch": c.epoch, "restored_workers": c.restored, "version": c.cfg.Version}
}

// finish records what memory still holds and the last event, and waits for
// StopTimeout at most until it is printed. What takes longer is still stored: the
// writer ends with an empty queue.
func (c *Coordinator) finish(sup *supervisor) {
	addr, cause := c.Addr(), sup.cause()
	if addr == "" {
		return // it never started
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.cfg.StopTimeout)
	defer cancel()
	for _, step := range []struct {
		what string
		run  func() error
	}{
		{"write the last beats", func() error { return c.flushBeats(ctx) }},
		{"record the end", func() error { return c.recordStop(ctx, addr, cause) }},
		{"print the last events", func() error { return c.outbox.drain(ctx) }},
		// An empty change carries the last printed number into the store.
		{"note what is printed", func() error { return c.writer.do(ctx, func(context.Context, *batch) error { return nil }, nil) }},
	} {
		err := step.run()
		switch {
		case err == nil:
		case core.IsCode(err, core.CodeDeadlineExceeded):
			c.log.Warn("the end takes longer than it is waited for", "step", step.what, "error", err)
		default:
			sup.fail(core.WithOp("coordinator: "+step.what, err))
			return
		}
	}
}

func (c *Coordinator) recordStop(ctx context.Context, addr string, cause error) error {
	return c.writer.do(ctx, func(_ context.Context, b *batch) error {
		ev := c.event(core.TopicCoordinatorStopped, core.LevelInfo, core.WorkerID{}, c.lifeAttrs(addr))
		if cause != nil {
			ev.Level, ev.Attrs["error"] = core.LevelError, cause.Error()
		}
		b.event(ev)
		return nil
	}, nil)
}

// upkeep writes coalesced beats and what is known as printed, from time to time.
func (c *Coordinator) upkeep(ctx context.Context) error {
	tick := time.NewTicker(c.cfg.FlushInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := c.flushBeats(ctx); err != nil && ctx.Err() == nil && !final(err) {
			// The beats stay in memory and the next round writes them.
			c.log.Error("the last beats could not be written", "error", err)
		}
		if c.outbox.unsavedPrinted() > 0 {
			c.writer.submit(&op{prepare: func(context.Context, *batch) error { return nil }})
		}
	}
}
