// Embedded runs a coordinator and two workers inside one Go program: no other
// process, no configuration file, everything in memory except the certificates.
//
//	go run ./examples/embedded
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"

	"github.com/rollout-substrate/rollout/pkg/coordinator"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
	"github.com/rollout-substrate/rollout/pkg/worker"
)

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "embedded:", err)
		os.Exit(1)
	}
}

// run starts everything, waits until both workers are ready, drains them and stops.
func run(ctx context.Context, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "rollout-embedded-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) // certificates of a run that is over

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, ctx := errgroup.WithContext(ctx)

	c, err := coordinator.New(coordinator.Config{
		Storage: memstore.New(memstore.Options{}), ListenAddr: "127.0.0.1:0", TLSDir: filepath.Join(dir, "tls"),
	})
	if err != nil {
		return err
	}
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	group.Go(func() error { return c.Run(serving) })
	select {
	case <-c.Ready():
	case <-ctx.Done():
		stopServing()
		return group.Wait()
	}

	working, drain := context.WithCancel(ctx)
	defer drain()
	workers, _ := errgroup.WithContext(ctx)
	for _, name := range []string{"one", "two"} {
		workers.Go(func() error {
			return worker.Run(working, worker.Config{
				Store: memstore.New(memstore.Options{}), IdentityDir: filepath.Join(dir, name),
				Addr: c.Addr(), TLSDir: filepath.Join(dir, "tls"),
			})
		})
	}
	if err := bothReady(ctx, c, out); err != nil {
		return err
	}
	drain() // the end of a worker's context drains it
	if err := workers.Wait(); err != nil {
		return err
	}
	fmt.Fprintln(out, "both have left")
	stopServing()
	return group.Wait()
}

// bothReady follows the coordinator's events until two workers are ready.
func bothReady(ctx context.Context, c *coordinator.Coordinator, out io.Writer) error {
	ctx, enough := context.WithCancel(ctx)
	defer enough()
	ready := map[string]bool{}
	err := c.Events(ctx, 0, true, func(e core.StoredEvent) error {
		if e.Event.Topic == core.TopicWorkerState && e.Event.Attrs["to"] == string(core.StateReady) && !ready[e.Event.WorkerID] {
			ready[e.Event.WorkerID] = true
			fmt.Fprintf(out, "%d ready\n", len(ready))
		}
		if len(ready) == 2 {
			enough()
		}
		return nil
	})
	if len(ready) == 2 {
		return nil // it was ended here
	}
	return err
}
