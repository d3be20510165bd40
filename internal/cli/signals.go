package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// WithSignals returns a context that ends with the first SIGTERM or SIGINT, which
// asks for an ordered end. A second one calls exit with [ExitFailure] at once. It
// also takes SIGPIPE, so that writing to a closed stdout is an error of that write
// and not the end of the process. stop gives the signals back.
func WithSignals(parent context.Context, exit func(code int)) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(parent)
	ends := make(chan os.Signal, 2)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT)
	pipes := make(chan os.Signal, 1)
	signal.Notify(pipes, syscall.SIGPIPE)
	done := make(chan struct{})
	go func() {
		for n := 0; ; {
			select {
			case <-ends:
				if n++; n > 1 {
					exit(ExitFailure)
					return
				}
				cancel()
			case <-pipes:
			case <-done:
				return
			}
		}
	}()
	return ctx, func() {
		signal.Stop(ends)
		signal.Stop(pipes)
		close(done)
		cancel()
	}
}
