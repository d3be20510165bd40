// Smoke starts the built programs and tries the main paths: who is alive, who is not,
// and who came back, and whether items are scored by a plugin of each mode.
//
// It runs the steps of steps.go in order, once for each protocol, in a directory of
// its own on free ports, and leaves nothing running. Every assertion is made on parsed
// events. The last step is a control: with nobody killed, the assertion that finds a
// dead worker must fail, or the run proves nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// limit bounds the whole run: what takes longer hangs.
const limit = 2 * time.Minute

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	set := flag.NewFlagSet("smoke", flag.ContinueOnError)
	set.SetOutput(stderr)
	bin := set.String("bin", defaultBin(), "directory of the built programs")
	protocols := set.String("protocols", "h2,quic", "protocols to run, separated by commas")
	source := set.String("source", ".", "root of the source tree, where the sample plugins are")
	interval := set.Duration("interval", time.Second, "heartbeat interval")
	switch err := set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		return 2
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	for protocol := range strings.SplitSeq(*protocols, ",") {
		if err := runOnce(ctx, *bin, *source, protocol, *interval, stdout); err != nil {
			fmt.Fprintf(stderr, "smoke: %s: %v\n", protocol, err)
			return 1
		}
	}
	fmt.Fprintf(stdout, "smoke: all passed in %.1f s\n", time.Since(began).Seconds())
	return 0
}

// defaultBin is where this program lies itself.
func defaultBin() string {
	exe, err := os.Executable()
	if err != nil {
		return "bin"
	}
	return filepath.Dir(exe)
}

// runOnce runs all steps over one protocol.
func runOnce(ctx context.Context, bin, source, protocol string, interval time.Duration, out io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "rollout-smoke-")
	if err != nil {
		return err
	}
	s := &stage{bin: bin, source: source, dir: dir, protocol: protocol, interval: interval, out: out}
	defer func() {
		left := s.end()
		if err == nil {
			err = left
		}
		if err == nil {
			err = os.RemoveAll(dir)
		} else {
			err = fmt.Errorf("%w\nthe files of the run are in %s%s", err, dir, s.tails())
		}
	}()
	for _, step := range steps() {
		began := time.Now()
		figure, err := step.run(ctx, s)
		if err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
		if figure != "" {
			figure = ": " + figure
		}
		fmt.Fprintf(out, "%-4s %5.1f s  %s%s\n", protocol, time.Since(began).Seconds(), step.name, figure)
	}
	return nil
}
