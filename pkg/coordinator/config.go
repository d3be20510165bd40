package coordinator

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// Defaults of [Config].
const (
	DefaultStoragePath    = "./data/rollout.db"
	DefaultTLSDir         = "./data/tls"
	DefaultFlushInterval  = 10 * time.Second
	DefaultEventRetention = 100_000
	DefaultRequeueRate    = 10
	DefaultStopTimeout    = 5 * time.Second
)

// Config says how a coordinator runs. The zero value is usable: every field has
// the default that its comment names.
type Config struct {
	// RunID is the run of a new store. A store that has one keeps it, and another
	// one here is an error. Default: the store's, or made once.
	RunID core.RunID

	// Storage is an open store, which the coordinator uses and does not close.
	// Default: the file at StoragePath, opened by [New] and closed by [Coordinator.Run].
	Storage core.Storage
	// StoragePath is the store's file when Storage is nil. Default:
	// [DefaultStoragePath]. Beside an open Storage it serves only to tell its size.
	StoragePath string

	// Timing is told to every worker at registration. Default: [core.DefaultTiming]
	// of [core.DefaultHeartbeatInterval]. A skew of 0 stands where the other three are
	// given.
	Timing core.Timing

	// ListenAddr is host:port; port 0 picks a free one. Default: [transport.DefaultAddr].
	ListenAddr string
	// Protocol is the wire of the workers' services. Default: [transport.ProtocolH2].
	Protocol transport.Protocol
	// ServerNames are further DNS names and IP addresses of the server's certificate.
	ServerNames []string
	// TLSDir holds the CA, the join token and the operator's identity, which are
	// made there when missing. Default: [DefaultTLSDir].
	TLSDir string
	// Limits bound what peers can make the server spend. Zero fields: [transport.DefaultLimits].
	Limits transport.Limits
	// Notice is told in one line when a CA is made. Default: nobody.
	Notice io.Writer

	// Emitter takes events; the caller closes it after Run. Domain events wait in
	// Storage until a [core.AckEmitter] says they are printed; any other emitter
	// is taken to have printed what it was given. Default: events are recorded only.
	Emitter core.EventEmitter
	// HeartbeatEvents emits worker_heartbeat for each beat.
	HeartbeatEvents bool
	// Logger takes what the coordinator has to say. Default: discarded.
	Logger *slog.Logger
	// Version is the binary's, for status and registration.
	Version string

	// FlushInterval is the time between two writes of the coalesced beats. What a
	// crash loses is the last seen time of that long. Default: [DefaultFlushInterval].
	FlushInterval time.Duration
	// EventRetention is how many domain events the store keeps. Default:
	// [DefaultEventRetention].
	EventRetention int
	// Objects keeps payloads too large for a message. Required with Work; the caller
	// closes it after Run.
	Objects core.ObjectStore
	// Work opens the book of work, such as [Jobs] does, once the coordinator's own book is open; it is
	// closed before the store. Default: there is no work.
	Work func(ctx context.Context, c *Coordinator) (Workbook, error)
	// RequeueRate is how many lost workers a second have their work returned while a
	// mass failure holds requeue back. Default: [DefaultRequeueRate].
	RequeueRate float64
	// StopTimeout bounds how long an ordered shutdown waits for the last events to
	// be printed. Default: [DefaultStopTimeout].
	StopTimeout time.Duration
}

// WithDefaults returns c with every zero field set to its default.
func (c Config) WithDefaults() Config {
	set(&c.StoragePath, DefaultStoragePath)
	if t := c.Timing; t.HeartbeatInterval == 0 || t.SelfFence == 0 || t.Failure == 0 {
		c.Timing = t.WithDefaults()
	}
	set(&c.ListenAddr, transport.DefaultAddr)
	set(&c.Protocol, transport.ProtocolH2)
	set(&c.TLSDir, DefaultTLSDir)
	set(&c.FlushInterval, DefaultFlushInterval)
	set(&c.EventRetention, DefaultEventRetention)
	set(&c.RequeueRate, DefaultRequeueRate)
	set(&c.StopTimeout, DefaultStopTimeout)
	if c.Emitter == nil {
		c.Emitter = discardEmitter{}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func set[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// Validate returns every broken rule at once, defaults taken. Addresses, protocol
// and names are judged by [transport.Config.Validate] when [Coordinator.Run] serves.
func (c Config) Validate() core.Violations {
	c = c.WithDefaults()
	vs := c.Timing.Validate()
	add := func(key, format string, args ...any) {
		vs = append(vs, core.Violation{Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	if c.FlushInterval < time.Millisecond {
		add("FlushInterval", "%v is shorter than 1ms, beats would be written one by one", c.FlushInterval)
	}
	if c.EventRetention < 16 {
		add("EventRetention", "%d is below 16, events would vanish before they are printed", c.EventRetention)
	}
	if c.Work != nil && c.Objects == nil {
		add("Objects", "is missing, a coordinator that keeps work needs an object store")
	}
	if c.RequeueRate < 0.001 || c.RequeueRate > 1e6 {
		add("RequeueRate", "%v is outside 0.001 to 1000000, give workers a second", c.RequeueRate)
	}
	if c.StopTimeout < 0 {
		add("StopTimeout", "%v is negative, give how long to wait at the end", c.StopTimeout)
	}
	return vs
}

// discardEmitter prints nothing; events stay in the record.
type discardEmitter struct{}

func (discardEmitter) Emit(core.Event)             {}
func (discardEmitter) Close(context.Context) error { return nil }
