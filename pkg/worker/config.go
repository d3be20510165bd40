package worker

import (
	"log/slog"
	"path/filepath"
	"runtime"
	"time"

	"github.com/rollout-substrate/rollout/internal/version"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// Config says what a worker is and whom it serves. The zero value with a Store
// serves a coordinator on this machine from the default paths.
type Config struct {
	// Store is the worker's own store, required. The caller opens and closes it.
	Store core.Storage
	// ID is the worker's name; zero takes the one in Store, or makes one. Another
	// one than in Store is [core.CodeInvalidArgument].
	ID core.WorkerID
	// IdentityDir holds the worker's key and certificate; default data/identity.
	IdentityDir string
	// Addr is the coordinator, host:port; default [transport.DefaultAddr].
	Addr string
	// Domain is the name that the coordinator's certificate must carry; default
	// localhost.
	Domain string
	// TLSDir holds ca.pem and join.token, the only files read there; default data/tls.
	TLSDir string
	// Protocol is the wire; default h2.
	Protocol transport.Protocol
	// Slots is how many items are worked on at once; default the number of CPUs.
	Slots int
	// DrainTimeout bounds a drain; default 30 s.
	DrainTimeout time.Duration
	// InitTimeout bounds [core.Worker].Init, which loads plugins; default 5 min.
	InitTimeout time.Duration
	// HookTimeout bounds the other hooks; default 10 s.
	HookTimeout time.Duration
	// HotReload lets a coordinator order the reload of a plugin.
	HotReload bool
	// Executor does the work; nil: a worker without plugins. It may also be a
	// [Reloader], a [Canceler] or a [PluginLister].
	Executor core.Worker
	// Compute describes the machine and announces its end; nil: nothing is known.
	Compute core.ComputeHint
	// Events takes worker_fenced; nil: discarded.
	Events core.EventEmitter
	// Logger takes what the worker has to say; nil: discarded.
	Logger *slog.Logger
	// StopNow, once closed, makes Run leave without draining; nil: never.
	StopNow <-chan struct{}
	// Version of the program, told to the coordinator; default this module's.
	Version string
}

// withDefaults fills the zero fields.
func (c Config) withDefaults() Config {
	setDefault(&c.IdentityDir, filepath.Join("data", "identity"))
	setDefault(&c.Addr, transport.DefaultAddr)
	setDefault(&c.Domain, "localhost")
	setDefault(&c.TLSDir, filepath.Join("data", "tls"))
	setDefault(&c.Protocol, transport.ProtocolH2)
	setDefault(&c.Slots, runtime.GOMAXPROCS(0))
	setDefault(&c.DrainTimeout, 30*time.Second)
	setDefault(&c.InitTimeout, 5*time.Minute)
	setDefault(&c.HookTimeout, 10*time.Second)
	setDefault(&c.Version, version.Get().Version)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Executor == nil {
		c.Executor = idle{}
	}
	if c.Events == nil {
		c.Events = noEvents{}
	}
	return c
}

func setDefault[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate returns every broken rule at once. Zero fields that have a default are
// no violation.
func (c Config) Validate() core.Violations {
	var vs core.Violations
	add := func(key, msg string) { vs = append(vs, core.Violation{Key: key, Msg: msg}) }
	if c.Store == nil {
		add("Store", "is nil, open the worker's store first")
	}
	if c.Slots < 0 {
		add("worker.slots", "is negative, give the number of items worked on at once")
	}
	for key, d := range map[string]time.Duration{"worker.drain_timeout": c.DrainTimeout, "InitTimeout": c.InitTimeout, "HookTimeout": c.HookTimeout} {
		if d < 0 {
			add(key, "is negative, give a time")
		}
	}
	if p := c.Protocol; p != "" && p != transport.ProtocolH2 && p != transport.ProtocolQUIC {
		add("transport.protocol", `is neither "h2" nor "quic"`)
	}
	return vs
}
