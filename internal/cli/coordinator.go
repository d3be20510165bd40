package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/internal/version"
	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/coordinator"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// privateUmask keeps every file that the programs make from other users.
const privateUmask = 0o077

// lastWords is how long a program waits at its end for somebody to read its events.
const lastWords = 2 * time.Second

const coordinatorHelp = `coordinator keeps the book of workers, hands out work, and says who is alive.

usage: coordinator [run] [flags]

It starts without any configuration: data, certificates and the store lie below
./data, and it listens on 127.0.0.1:50051. Events are printed on standard output,
one JSON object a line; logs go to standard error. SIGTERM and SIGINT end it in
order, a second one at once; SIGHUP reads the configuration again and takes over
log.level. Under systemd (Type=notify) it tells when it serves and that it lives.

flags:
  --config FILE      read a TOML file; may be repeated, later files win
  --data-dir DIR     where the defaults lie (default ./data)
  --log-level LEVEL  debug, info, warn or error (default info)
  --version          print version, commit, Go version and protocol
  --help             print this

Every key can also be set in the environment: transport.listen_addr is
ROLLOUT_TRANSPORT_LISTEN_ADDR. 'rollout config print' lists all of them,
'rollout config check FILE' checks a file without starting anything.

exit status: 0 clean end, 1 failure, 2 wrong usage or configuration,
4 another coordinator has taken over the store
`

// Coordinator runs the coordinator with the arguments behind the program's name.
func Coordinator(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	syscall.Umask(privateUmask)
	o := newOptions("coordinator", coordinatorHelp, [2]int{coordinator.ProtocolMin, coordinator.ProtocolMax})
	goOn, err := o.parse(args, stdout)
	if err == nil && goOn {
		err = o.serve(ctx, config.Coordinator, stdout, stderr, openCoordinator(stderr))
	}
	if err != nil {
		report(stderr, "coordinator", err)
	}
	return exitCode(err)
}

// openCoordinator wires objects, work and the coordinator.
func openCoordinator(stderr io.Writer) func(context.Context, *service) (served, func(), error) {
	return func(ctx context.Context, s *service) (served, func(), error) {
		cfg := s.cfg
		objects, err := cloudlocal.OpenObjects(ctx, cloudlocal.ObjectsConfig{Root: cfg.ObjectRoot, Logger: s.log})
		if err != nil {
			return served{}, nil, err
		}
		c, err := coordinator.New(coordinator.Config{
			Objects: objects, Work: coordinator.Jobs(coordinator.JobsConfig{MaxAttempts: cfg.MaxAttempts, MaxLosses: cfg.MaxLosses}),
			RunID: cfg.RunID, StoragePath: cfg.StoragePath, Timing: cfg.Timing,
			ListenAddr: cfg.ListenAddr, Protocol: transport.Protocol(cfg.Protocol), ServerNames: cfg.ServerNames,
			TLSDir: cfg.TLSDir, Notice: stderr, Emitter: s.events, HeartbeatEvents: cfg.LogLevel == "debug",
			Logger: s.log, Version: version.Get().Version,
		})
		if err != nil {
			closeObjects(objects, s.log)
			return served{}, nil, err
		}
		return served{process: c, status: func() string { return coordinatorStatus(c) }}, func() { closeObjects(objects, s.log) }, nil
	}
}

// coordinatorStatus is what a service manager shows of a coordinator.
func coordinatorStatus(c *coordinator.Coordinator) string {
	addr := c.Addr()
	if addr == "" {
		return "opening the store"
	}
	st, err := c.Status(context.Background())
	if err != nil {
		return "serving " + addr
	}
	return fmt.Sprintf("serving %s as epoch %d, %s alive", addr, st.Epoch, count(st.Workers[core.LivenessAlive], "worker"))
}

// closeObjects is for the end of a program: what it says can only be logged.
func closeObjects(o core.ObjectStore, log *slog.Logger) {
	if err := o.Close(); err != nil {
		log.Error("the object store did not close cleanly", "err", err)
	}
}
