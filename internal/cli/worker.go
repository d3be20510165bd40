package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"syscall"

	"github.com/rollout-substrate/rollout/internal/config"
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
leaves. A second one ends it at once. SIGHUP reads the configuration again, takes over
log.level and exchanges plugins whose files have changed. Under systemd (Type=notify)
it tells when it is registered with its plugins loaded, and that it lives.

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
  --version          print version, commit, Go version and protocol
  --help             print this

Every key can also be set in the environment: coordinator_addr is
ROLLOUT_COORDINATOR_ADDR. 'rollout config print' lists all of them.

exit status: 0 clean end, 1 failure, 2 wrong usage or configuration, 3 refused by the
coordinator or unknown host, 4 another process has taken over this worker's identity
`

// workerOptions are the flags that only the worker has.
type workerOptions struct {
	*options
	named     string
	id        core.WorkerID // of named
	plugins   stringList
	hotReload bool
}

// Worker runs the worker with the arguments behind the program's name.
func Worker(ctx context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == launchVerb {
		return pluginhost.LaunchMain(args[1:])
	}
	syscall.Umask(privateUmask)
	o := &workerOptions{options: newOptions("worker", workerHelp, [2]int{worker.ProtocolMin, worker.ProtocolMax})}
	o.key("addr", "coordinator_addr")
	o.key("tls-dir", "transport.tls_dir")
	o.set.StringVar(&o.named, "worker-id", "", "")
	o.set.Var(&o.plugins, "plugin", "")
	o.set.BoolVar(&o.hotReload, "hot-reload", false, "")
	goOn, err := o.parse(args, stdout)
	if err == nil && goOn {
		err = o.check()
	}
	if err == nil && goOn {
		stdout, err = ownStdout(stdout)
	}
	if err == nil && goOn {
		err = o.serve(ctx, config.Worker, stdout, stderr, o.openWorker)
	}
	if err != nil {
		report(stderr, "worker", err)
	}
	return exitCode(err)
}

// check completes what the command line says.
func (o *workerOptions) check() (err error) {
	if o.named != "" {
		if o.id, err = core.ParseWorkerID(o.named); err != nil {
			return usagef("--worker-id: %w", err)
		}
	}
	if o.plugins != nil {
		o.flags = append(o.flags, config.Flag{Name: "--plugin", Key: "plugins", List: o.plugins})
	}
	return nil
}

// openWorker wires the store, the plugins and the worker.
func (o *workerOptions) openWorker(ctx context.Context, s *service) (served, func(), error) {
	cfg := s.cfg
	store, err := storage.Open(ctx, storage.Config{Path: cfg.StoragePath, RepairMeta: true, Logger: s.log})
	if err != nil {
		return served{}, nil, err
	}
	r, err := o.startWorker(ctx, s, store)
	if err != nil {
		closeStore(store, s.log)
		return served{}, nil, err
	}
	return r, func() { closeStore(store, s.log) }, nil
}

// startWorker makes the worker on an open store.
func (o *workerOptions) startWorker(ctx context.Context, s *service, store core.Storage) (served, error) {
	cfg := s.cfg
	plugins, err := newPlugins(cfg, store, s.events, s.log, o.hotReload)
	if err != nil {
		return served{}, err
	}
	wc := worker.Config{
		Store: store, ID: o.id, IdentityDir: cfg.IdentityDir(), Addr: cfg.CoordinatorAddr, Domain: cfg.CoordinatorDomain,
		TLSDir: cfg.TLSDir, Protocol: transport.Protocol(cfg.Protocol), Slots: cfg.WorkerSlots,
		DrainTimeout: cfg.DrainTimeout, HotReload: o.hotReload, Events: s.events, Logger: s.log,
		Compute: cloudlocal.NewMachine(cloudlocal.MachineConfig{DataDir: cfg.DataDir, NoticeFile: cfg.PreemptionNoticeFile}),
		Version: version.Get().Version,
	}
	r := served{}
	if plugins != nil {
		wc.Executor, r.refresh = plugins, plugins.Refresh
	}
	p, err := worker.New(ctx, wc)
	if err != nil {
		return served{}, err
	}
	r.process, r.status = p, func() string { return workerStatus(p.Status(), cfg.CoordinatorAddr) }
	return r, nil
}

// workerStatus is what a service manager shows of a worker.
func workerStatus(st worker.Status, addr string) string {
	if st.Epoch == 0 {
		return fmt.Sprintf("worker %s: not registered, trying %s", st.ID, addr)
	}
	return fmt.Sprintf("worker %s: %s, registered with %s as epoch %d", st.ID, st.State, addr, st.Epoch)
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
