package cloudlocal_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
)

// The id of an object is the hash of its bytes, so equal bytes are stored once and
// damage is seen when they are read.
func ExampleOpenObjects() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "objects")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	objects, err := cloudlocal.OpenObjects(ctx, cloudlocal.ObjectsConfig{Root: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer objects.Close()

	info, err := objects.Put(ctx, strings.NewReader("weights"), core.PutOptions{ContentType: "text/plain"})
	if err != nil {
		log.Fatal(err)
	}
	b, err := core.ReadBlob(ctx, objects, info.ID, 1<<20)
	fmt.Println(info.Size, info.ContentType, string(b), err)
	fmt.Println(info.ID == core.SumContent([]byte("weights")))
	// Output:
	// 7 text/plain weights <nil>
	// true
}

// An item is leased to one owner until it is acknowledged, and comes back when its owner
// dies.
func ExampleOpenQueue() {
	ctx := context.Background()
	store := memstore.New(memstore.Options{})
	defer store.Close()
	queue, err := cloudlocal.OpenQueue(ctx, cloudlocal.QueueConfig{Storage: store})
	if err != nil {
		log.Fatal(err)
	}
	defer queue.Close()

	if _, err := core.EnqueueOne(ctx, queue, "rollouts", core.NewItem{Payload: []byte("line 1")}); err != nil {
		log.Fatal(err)
	}
	take := func(owner core.WorkerID) core.LeasedItem {
		items, err := queue.Dequeue(ctx, core.DequeueOptions{Queues: []string{"rollouts"}, Owner: owner, Epoch: 1, MaxItems: 1})
		if err != nil || len(items) != 1 {
			log.Fatal(items, err)
		}
		return items[0]
	}
	first, second := core.NewWorkerID(), core.NewWorkerID()
	lost := take(first)
	if _, err := queue.ReleaseOwner(ctx, first, 1, true, "its machine is gone"); err != nil {
		log.Fatal(err)
	}
	item := take(second)
	fmt.Printf("%s: attempt %d, lost %d times\n", item.Payload, item.Attempt, item.Losses)
	errs, err := queue.Ack(ctx, []core.Ack{{Lease: lost.Lease}, {Lease: item.Lease}})
	fmt.Println(core.CodeOf(errs[0]), errs[1], err)
	// Output:
	// line 1: attempt 1, lost 1 times
	// lease_lost <nil> <nil>
}

// Only secrets that are allowed by name are handed out.
func ExampleNewSecrets() {
	secrets, err := cloudlocal.NewSecrets(cloudlocal.SecretsConfig{
		Allow: []string{"API_KEY"}, Environ: []string{"ROLLOUT_SECRET_API_KEY=k-123", "ROLLOUT_SECRET_OTHER=x"},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer secrets.Close()
	key, err := secrets.Get(context.Background(), "API_KEY")
	fmt.Println(key, string(key.Reveal()), err)
	_, err = secrets.Get(context.Background(), "OTHER")
	fmt.Println(core.CodeOf(err))
	// Output:
	// [redacted] k-123 <nil>
	// permission_denied
}

// A machine announces its end through a file, on which a worker drains.
func ExampleNewMachine() {
	dir, err := os.MkdirTemp("", "machine")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	notice := filepath.Join(dir, "notice")
	machine := cloudlocal.NewMachine(cloudlocal.MachineConfig{DataDir: dir, NoticeFile: notice})
	inv, err := machine.Inventory(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(notice, []byte("maintenance"), 0o600); err != nil {
		log.Fatal(err)
	}
	p, err := machine.Preemption(context.Background())
	fmt.Println(inv.CPU.Machine.Value > 0, p.Reason, err)
	// Output: true maintenance <nil>
}
