package cli

import (
	"context"
	"io"
	"log/slog"
	"syscall"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/internal/events"
	"github.com/rollout-substrate/rollout/internal/version"
	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost"
	"github.com/rollout-substrate/rollout/pkg/storage"
	"github.com/rollout-substrate/rollout/pkg/transport"
	"github.com/rollout-substrate/rollout/pkg/worker"
)

const workerHelp = `worker registers with a coordinator, proves that it lives, and runs plugins.

usage: worker [run] [flags]

It starts without any configuration: it keeps its identity below ./data, reads
ca.pem and join.token from ./data/tls and serves the coordinator at
127.0.0.1:50051, for which it waits if need be. Events are printed on standard
output, one JSON object a line; logs go to standard error. SIGTERM and SIGINT drain:
it finishes its work while it keeps beating, at most worker.drain_timeout, and
leaves. A second one ends it at once.

flags:
  --addr HOST:PORT   the coordinator (default 127.0.0.1:50051)
  --tls-dir DIR      where ca.pem and join.token lie (default ./data/tls)
  --worker-id ULID   the worker's name at its first start; kept from then on
  --plugin NAME      manifest file or name of a plugin to load; may be repeated
  --hot-reload       exchange a plugin when its files change or an operator says so
  --config FILE      read a TOML file; may be repeated, later files win
  --data-dir DIR     where the defaults lie (default ./data); two workers on one
                     machine need one each
  --log-level LEVEL  debug, info, warn or error (default info)
  --version          print version, commit and Go version
  --help             print this

Every key can also be set in the environment: coordinator_addr is
ROLLOUT_COORDINATOR_ADDR. 'rollout config print' lists all of them.

exit status: 0 clean end, 1 failure, 2 wrong usage or configuration, 3 refused by the
coordinator or unknown host, 4 another process has taken over this worker's identity
`

// workerOptions are the flags that only the worker has.
type workerOptions struct {
	*options
	id        string
	plugins   stringList
	hotReload bool
}

// Worker runs the worker with the arguments behind the program's name.
func Worker(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == launchVerb {
		return pluginhost.LaunchMain(args[1:])
	}
	syscall.Umask(privateUmask)
	o := &workerOptions{options: newOptions("worker", workerHelp)}
	o.key("addr", "coordinator_addr")
	o.key("tls-dir", "transport.tls_dir")
	o.set.StringVar(&o.id, "worker-id", "", "")
	o.set.Var(&o.plugins, "plugin", "")
	o.set.BoolVar(&o.hotReload, "hot-reload", false, "")
	goOn, err := o.parse(args, stdout)
	if err == nil && goOn {
		err = runWorker(ctx, o, stdout, stderr)
	}
	if err != nil {
		report(stderr, "worker", err)
	}
	return exitCode(err)
}

// runWorker wires events, the store and the worker.
func runWorker(ctx context.Context, o *workerOptions, stdout, stderr io.Writer) error {
	var id core.WorkerID
	if o.id != "" {
		var err error
		if id, err = core.ParseWorkerID(o.id); err != nil {
			return usagef("--worker-id: %w", err)
		}
	}
	if o.plugins != nil {
		o.flags = append(o.flags, config.Flag{Name: "--plugin", Key: "plugins", List: o.plugins})
	}
	l, log, err := o.load(config.Worker, stderr)
	if err != nil {
		return err
	}
	cfg := l.Config
	em, err := events.New(events.Config{Writer: stdout, Level: core.EventLevel(cfg.LogLevel)})
	if err != nil {
		return err
	}
	defer closeEvents(em, log)
	store, err := storage.Open(ctx, storage.Config{Path: cfg.StoragePath, RepairMeta: true, Logger: log})
	if err != nil {
		return err
	}
	defer closeStore(store, log)
	exec, err := newExecutor(cfg, store, em, log, o.hotReload)
	if err != nil {
		return err
	}
	return worker.Run(ctx, worker.Config{
		Store: store, ID: id, IdentityDir: cfg.IdentityDir(), Addr: cfg.CoordinatorAddr, Domain: cfg.CoordinatorDomain,
		TLSDir: cfg.TLSDir, Protocol: transport.Protocol(cfg.Protocol), Slots: cfg.WorkerSlots,
		DrainTimeout: cfg.DrainTimeout, HotReload: o.hotReload, Executor: exec, Events: em, Logger: log,
		Compute: cloudlocal.NewMachine(cloudlocal.MachineConfig{DataDir: cfg.DataDir, NoticeFile: cfg.PreemptionNoticeFile}),
		Version: version.Get().Version,
	})
}

// closeStore is for the end of a program: what it says can only be logged.
func closeStore(s core.Storage, log *slog.Logger) {
	if err := s.Close(); err != nil {
		log.Error("the store did not close cleanly", "err", err)
	}
}

// closeEvents prints what waits, for a while.
func closeEvents(em core.EventEmitter, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), lastWords)
	defer cancel()
	if err := em.Close(ctx); err != nil {
		log.Warn("not every event was printed", "err", err)
	}
}
