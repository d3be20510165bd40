package worker_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/coordinator"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
	"github.com/rollout-substrate/rollout/pkg/worker"
)

// A worker needs a store of its own, and from the coordinator ca.pem and join.token,
// which here lie in the same directory.
func ExampleNew() {
	dir, err := os.MkdirTemp("", "worker")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	tls := filepath.Join(dir, "tls")
	c, err := coordinator.New(coordinator.Config{Storage: memstore.New(memstore.Options{}), ListenAddr: "127.0.0.1:0", TLSDir: tls})
	if err != nil {
		log.Fatal(err)
	}
	serving, stop := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- c.Run(serving) }()
	<-c.Ready()

	store := memstore.New(memstore.Options{})
	defer store.Close()
	p, err := worker.New(context.Background(), worker.Config{Store: store, IdentityDir: filepath.Join(dir, "identity"), Addr: c.Addr(), TLSDir: tls})
	if err != nil {
		log.Fatal(err)
	}
	working, drain := context.WithCancel(context.Background())
	left := make(chan error, 1)
	go func() { left <- p.Run(working) }()
	<-p.Ready()
	fmt.Println(p.Status().State, "in epoch", p.Status().Epoch, p.Alive())

	drain() // the end of its context drains a worker
	fmt.Println("left:", <-left)
	stop()
	fmt.Println("coordinator:", <-served)
	// Output:
	// ready in epoch 1 <nil>
	// left: <nil>
	// coordinator: <nil>
}

// Work may be Go functions of the program that the worker runs in. A worker calls
// Execute; here it is called by hand.
func ExampleNewFunctions() {
	f, err := worker.NewFunctions(worker.GoPlugin{Name: "text", Version: "1", Methods: map[string]worker.Function{
		"upper": func(_ context.Context, payload []byte) ([]byte, error) {
			return []byte(strings.ToUpper(string(payload))), nil
		},
	}})
	if err != nil {
		log.Fatal(err)
	}
	for _, r := range f.Execute(context.Background(), []core.WorkItem{
		{Plugin: "text", Method: "upper", Payload: []byte("hello")},
		{Plugin: "text", Method: "lower"},
	}) {
		fmt.Printf("%q %v\n", r.Result, r.Err)
	}
	// Output:
	// "HELLO" <nil>
	// "" worker: execute: the plugin "text" has no method "lower"
}
