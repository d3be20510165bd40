package cli

import (
	"context"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"syscall"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/internal/events"
	"github.com/rollout-substrate/rollout/internal/sdnotify"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// service is what coordinator and worker have in common while they run: a
// configuration that can be read again, a log, the event stream, and the service
// manager that wants to know how they fare.
//
//	SIGHUP  -> takeOver: configuration again -> log and event level, plugins
//	process -> tellManager: ready, status, watchdog, stopping
type service struct {
	o       *options
	program config.Program
	cfg     config.Config
	log     *slog.Logger
	level   *slog.LevelVar
	events  *events.Emitter
	manager sdnotify.Notifier

	loaded *config.Loaded // as taken over last; belongs to the goroutine of takeOver
}

// process is the coordinator or the worker of a service.
type process interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{} // closed when it does what it is for
	Alive() error           // nil while its main loop goes round
}

// served is what a service runs.
type served struct {
	process process
	status  func() string                   // what it does now, in a few words
	refresh func(ctx context.Context) error // takes over what SIGHUP may change; nil: nothing
}

// hangups takes SIGHUP from the first moment on: it must not end a service whose
// terminal has gone, nor one that is asked to reload before it can.
func hangups() (hup chan os.Signal, stop func()) {
	hup = make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	return hup, func() { signal.Stop(hup) }
}

// serve reads the configuration, opens the log and the event stream, lets open make
// the process and runs it. What open returns as closers is closed after it, last first.
func (o *options) serve(ctx context.Context, p config.Program, stdout, stderr io.Writer, open func(context.Context, *service) (served, func(), error)) error {
	hup, stop := hangups()
	defer stop()
	s := &service{o: o, program: p, level: new(slog.LevelVar)}
	var err error
	if s.loaded, err = o.load(p); err != nil {
		return err
	}
	s.cfg = s.loaded.Config
	s.level.Set(logLevel(s.cfg.LogLevel))
	s.log = newLoggerAt(stderr, s.cfg, s.level)
	warn(s.log, s.loaded)
	if s.manager, err = sdnotify.New(os.LookupEnv, os.Getpid()); err != nil {
		s.log.Warn("the service manager is not told everything", "err", err)
	}
	s.events, err = events.New(events.Config{Writer: stdout, Level: core.EventLevel(s.cfg.LogLevel)})
	if err != nil {
		return err
	}
	defer closeEvents(s.events, s.log)
	r, done, err := open(ctx, s)
	if err != nil {
		return err
	}
	defer done()
	return s.run(ctx, r, hup)
}

// run runs the process beside what listens to SIGHUP and what tells the manager.
func (s *service) run(ctx context.Context, r served, hup <-chan os.Signal) error {
	beside, end := context.WithCancel(context.WithoutCancel(ctx))
	told, heard := make(chan struct{}), make(chan struct{})
	go func() { defer close(told); s.tellManager(beside, ctx.Done(), r) }()
	go func() { defer close(heard); s.listen(beside, hup, r) }()
	err := r.process.Run(ctx)
	end()
	<-told
	<-heard
	return err
}

// warn logs what is accepted of a configuration but should be known.
func warn(log *slog.Logger, l *config.Loaded) {
	for _, w := range l.Warnings {
		log.Warn("configuration", "warning", w.String())
	}
}

// listen takes the configuration over again at each SIGHUP, until ctx ends.
func (s *service) listen(ctx context.Context, hup <-chan os.Signal, r served) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
		}
		// Before it is ready it has not told so, and after a reload it would.
		ready := isClosed(r.process.Ready())
		if ready {
			s.tell(sdnotify.Reloading())
		}
		s.takeOver(ctx, r)
		if ready {
			s.tell(sdnotify.Ready)
		}
	}
}

// takeOver reads the configuration again. A mistake in it changes nothing.
func (s *service) takeOver(ctx context.Context, r served) {
	l, err := s.o.load(s.program)
	if err != nil {
		s.log.Error("SIGHUP: the configuration stays as it was", "err", err)
		return
	}
	warn(s.log, l)
	s.level.Set(logLevel(l.Config.LogLevel))
	s.events.SetLevel(core.EventLevel(l.Config.LogLevel))
	if keys := waiting(s.loaded, l); len(keys) > 0 {
		s.log.Warn("SIGHUP: these keys have changed and take effect at the next start", "keys", strings.Join(keys, " "))
	}
	s.loaded = l
	if r.refresh != nil {
		if err := r.refresh(ctx); err != nil {
			s.log.Error("SIGHUP: not everything was taken over", "err", err)
		}
	}
	s.log.Info("SIGHUP: the configuration was read again", "level", l.Config.LogLevel)
}

// keyLogLevel is the only key that a running program takes over.
const keyLogLevel = "log.level"

// waiting returns the keys that differ between two readings and need a new start.
func waiting(old, now *config.Loaded) (keys []string) {
	was := old.List()
	for i, k := range now.List() {
		if k.Key != keyLogLevel && !reflect.DeepEqual(k.Value, was[i].Value) {
			keys = append(keys, k.Key)
		}
	}
	return keys
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
