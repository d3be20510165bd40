package cli

import (
	"context"
	"errors"
	"fmt"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/internal/config"
)

const devHelp = `dev starts a coordinator and workers in one terminal, from an empty directory, and
shows what they tell in one readable log: every event, and log lines from warn up, or
from --log-level if that is given. They are the programs coordinator and worker, which
lie beside this one or on PATH, with the same configuration: what works here works
apart.

Ctrl-C drains the workers, then ends the coordinator, and so does a terminal that is
closed; a second Ctrl-C ends all at once. A program that gives up ends the others too;
one that is killed is only reported. Workers keep their data in w1, w2, ... below the
data directory.

exit status: 0 everything was drained, 1 a program failed, 2 wrong usage, configuration
or manifest`

// devOptions are the flags of dev.
type devOptions struct {
	workers   int
	listen    string
	plugins   []string
	hotReload bool
}

func devCmd(t *tool) *cobra.Command {
	var o devOptions
	c := &cobra.Command{
		Use: "dev", Short: "Run a coordinator and workers in this terminal", Long: devHelp, Args: args(cobra.NoArgs),
		Example: "  rollout dev --plugin examples/gsm8k-reward/rollout-plugin.toml",
		RunE:    func(cmd *cobra.Command, _ []string) error { return t.dev(cmd.Context(), o) },
	}
	f := c.Flags()
	f.IntVar(&o.workers, "workers", 2, "how many workers to start")
	f.StringVar(&o.listen, "listen", "", "where the coordinator listens, `host:port`; port 0 picks a free one (default: as configured)")
	f.StringArrayVar(&o.plugins, "plugin", nil, "`manifest` file or name of a plugin that every worker loads; may be repeated")
	f.BoolVar(&o.hotReload, "hot-reload", false, "exchange a plugin when its files change")
	return c
}

// dev is the command.
func (t *tool) dev(ctx context.Context, o devOptions) error {
	if o.workers < 0 || o.workers > 64 {
		return usagef("--workers is %d, give a number from 0 to 64", o.workers)
	}
	l, err := t.load(config.Operator)
	if err != nil {
		return err
	}
	if err := checkPlugins(o.plugins); err != nil {
		return err // told once, before anything runs
	}
	coordinator, err := findProgram("coordinator")
	if err != nil {
		return err
	}
	worker, err := findProgram("worker")
	if err != nil {
		return err
	}
	d := &devRun{t: t, o: o, dataDir: l.Config.DataDir, tlsDir: l.Config.TLSDir, worker: worker, ended: make(chan *part, o.workers+1), starter: newStarter()}
	defer d.starter.stop()
	// A terminal that goes away drains as Ctrl-C does.
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGHUP)
	defer stop()
	return d.run(ctx, coordinator)
}

// devRun is one run of dev.
type devRun struct {
	t               *tool
	o               devOptions
	dataDir, tlsDir string
	worker          string
	ended           chan *part
	starter         *starter
	out             sync.Mutex // serialises lines on the terminal
}

// run starts everything and ends it in order.
func (d *devRun) run(ctx context.Context, path string) error {
	coordinator, err := d.start("coordinator", path, d.common("--data-dir", d.dataDir), listenEnv(d.o.listen))
	if err != nil {
		return err
	}
	var workers []*part
	err = func() error {
		var addr string
		select {
		case addr = <-coordinator.started:
		case <-coordinator.over:
			return coordinator.gaveUp()
		case <-ctx.Done():
			return nil
		}
		for i := range d.o.workers {
			w, err := d.startWorker(i+1, addr)
			if err != nil {
				return err
			}
			workers = append(workers, w)
		}
		d.line("dev", "give it work from another terminal: rollout submit --addr "+addr+flagText("--tls-dir", d.tlsDir)+" ...")
		return d.watch(ctx, coordinator)
	}()
	// Whoever gave up first is why; how the others ended stands in the log.
	if stopped := d.stopAll(coordinator, workers); err == nil {
		err = stopped
	}
	return err
}

// common returns the arguments that every program gets.
func (d *devRun) common(args ...string) []string {
	for _, f := range d.t.files {
		args = append(args, "--config", f)
	}
	if d.t.logLevel != "" {
		args = append(args, "--log-level", d.t.logLevel)
	}
	return args
}

func listenEnv(addr string) []string {
	if addr == "" {
		return nil
	}
	return []string{"ROLLOUT_TRANSPORT_LISTEN_ADDR=" + addr}
}

func (d *devRun) startWorker(n int, addr string) (*part, error) {
	name := fmt.Sprintf("w%d", n)
	args := d.common("--data-dir", filepath.Join(d.dataDir, name), "--tls-dir", d.tlsDir, "--addr", addr)
	for _, p := range d.o.plugins {
		args = append(args, "--plugin", p)
	}
	if d.o.hotReload {
		args = append(args, "--hot-reload")
	}
	return d.start(name, d.worker, args, nil)
}

// watch reports programs that end by themselves, until ctx ends or one gives up.
func (d *devRun) watch(ctx context.Context, coordinator *part) error {
	for {
		select {
		case <-ctx.Done():
			d.line("dev", "draining; Ctrl-C again ends everything at once")
			return nil
		case p := <-d.ended:
			if p == coordinator || p.status() > 0 {
				return p.gaveUp()
			}
			d.line(p.name, "ended: "+p.how())
		}
	}
}

// stopAll drains the workers, then ends the coordinator.
func (d *devRun) stopAll(coordinator *part, workers []*part) error {
	var errs []error
	for _, group := range [][]*part{workers, {coordinator}} {
		var asked []*part
		for _, p := range group {
			if p.ask() {
				asked = append(asked, p)
			}
		}
		for _, p := range asked {
			<-p.over
			d.line(p.name, "ended: "+p.how())
			if !p.endedInOrder() {
				errs = append(errs, p.gaveUp())
			}
		}
	}
	return errors.Join(errs...)
}
