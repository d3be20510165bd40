// Rollout is the operator's tool.
package main

import (
	"context"
	"os"

	"github.com/rollout-substrate/rollout/internal/cli"
)

func main() {
	ctx, stop := cli.WithSignals(context.Background(), os.Exit)
	code := cli.Operator(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}
