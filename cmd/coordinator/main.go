// Coordinator keeps the book of workers and hands out work.
package main

import (
	"context"
	"os"

	"github.com/rollout-substrate/rollout/internal/cli"
)

func main() {
	ctx, stop := cli.WithSignals(context.Background(), os.Exit)
	code := cli.Coordinator(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
