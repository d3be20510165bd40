package coordinator_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/coordinator"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
	"github.com/rollout-substrate/rollout/pkg/worker"
)

// One program that is a coordinator and two workers. They meet over mutual TLS on
// loopback, as three processes would.
func Example() {
	dir, err := os.MkdirTemp("", "rollout")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)

	c, err := coordinator.New(coordinator.Config{
		StoragePath: filepath.Join(dir, "rollout.db"),
		TLSDir:      filepath.Join(dir, "tls"),
		ListenAddr:  "127.0.0.1:0",
		Timing:      core.DefaultTiming(5 * time.Second),
	})
	if err != nil {
		log.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(serving) }()
	<-c.Ready()

	working, drain := context.WithCancel(context.Background())
	left := make(chan error, 2)
	for i := range 2 {
		store := memstore.New(memstore.Options{})
		defer store.Close()
		go func() {
			left <- worker.Run(working, worker.Config{
				Store: store, Addr: c.Addr(), TLSDir: filepath.Join(dir, "tls"),
				IdentityDir: filepath.Join(dir, fmt.Sprint("worker", i)),
			})
		}()
	}

	awaitWorkers(c, core.LivenessAlive, 2)
	fmt.Println("two workers are alive")

	drain()
	fmt.Println("drained:", <-left == nil, <-left == nil)
	awaitWorkers(c, core.LivenessDeregistered, 2)

	stop()
	fmt.Println("coordinator:", <-ended)
	// Output:
	// two workers are alive
	// drained: true true
	// coordinator: <nil>
}

// awaitWorkers follows the coordinator's events until n workers have a verdict.
func awaitWorkers(c *coordinator.Coordinator, verdict core.Liveness, n int) {
	ctx, enough := context.WithCancel(context.Background())
	defer enough()
	err := c.Events(ctx, 0, true, func(core.StoredEvent) error {
		rows, err := c.Workers(ctx)
		if err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(r core.WorkerRow) bool {
			return r.Liveness != verdict || r.State == core.StateInit
		})
		if len(rows) == n {
			enough()
		}
		return nil
	})
	if !core.IsCode(err, core.CodeCanceled) {
		log.Fatal(err)
	}
}
