package main

import (
	"context"
	"fmt"
	"os"
)

func Example() {
	dir, err := os.MkdirTemp("", "rollout-embed-")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	if err := run(context.Background(), dir, os.Stdout); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 0 ok "storage": 7
	// 1 ok "queue": 5
	// 2 error "": worker: execute: the word is empty
	// 3 ok "worker": 6
	// 4 ok "epoch": 5
}
