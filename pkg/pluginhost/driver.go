package pluginhost

import (
	"context"
	"log/slog"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/pyembed"
)

// instance is one started plugin of some mode. It has passed load, init and
// preflight when its starter returns it.
//
// Every method may be called by many goroutines at once. Payloads belong to the
// caller and are not kept after the method has returned, also not by a call that
// was abandoned at its deadline; results belong to the caller.
type instance interface {
	// call runs one method. Its errors are [*core.Error] values without an
	// operation of the host: the plugin's own failure, its death, poison, a broken
	// contract, or the context's code. It returns when ctx ends, whatever the
	// plugin does.
	call(ctx context.Context, method string, payload []byte) ([]byte, error)

	// callBatch runs one method for many payloads and returns one answer for
	// each, in order. A plugin without call_batch gets single calls. The error is
	// set only when no payload was answered.
	callBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error)

	// containment says which limits hold for this instance.
	containment() core.Containment

	// pid is the process of the plugin, or 0 when it runs in this one.
	pid() int

	// done is closed when the instance can take no further call and should be
	// replaced: its process is gone, or its interpreter thread is stuck for good.
	// A poisoned so, which cannot be replaced, never closes it.
	done() <-chan struct{}

	// exit describes, once done is closed, why: a [core.CodePluginCrashed] or
	// [core.CodePluginPoisoned] error with exit status and last lines.
	exit() error

	// stop runs the plugin's shutdown and frees everything, by force once ctx
	// ends. No call is in flight unless the caller gave up waiting for it. It may
	// be called more than once and closes done.
	stop(ctx context.Context) error
}

// selfQueuing is an instance that lines up calls by itself and is fastest when it
// has several in hand: the host gives it calls without waiting for a free slot of the
// plugin's concurrency, up to queueDepth at once. The interpreter thread of mode
// python drains many calls for each wake-up, and a call that had to wait for a slot
// first would cost one wake-up each.
type selfQueuing interface {
	queueDepth() int
}

// starter loads, initialises and preflights one instance. ctx bounds all three
// together (start_timeout). On failure nothing of the plugin stays.
type starter func(ctx context.Context, m core.Manifest, env hostEnv) (instance, error)

// hostEnv is what the host lends to a starter. It is a value: a starter may keep
// it for the life of its instance.
type hostEnv struct {
	// logger is for the host's own remarks, never nil.
	logger *slog.Logger

	// emit hands one line that the plugin wrote (stderr, stray stdout) to the
	// event stream. It does not block and is never nil.
	emit func(level core.EventLevel, line string)

	// dataDir is the absolute directory of everything that is kept, 0700.
	dataDir string

	// runRoot is the absolute 0700 directory below which each sidecar has a
	// directory of its own.
	runRoot string

	// sdkDir is the absolute directory that holds the package rollout_plugin of
	// the Python SDK, for PYTHONPATH and sys.path.
	sdkDir string

	// launcher is the argument list that starts a sidecar launcher; empty means
	// that sidecars run uncontained.
	launcher []string

	// privateDirs are directories with keys, which no sidecar should read.
	privateDirs []string

	// pythons finds interpreters and remembers what they said of themselves.
	pythons *pythons

	// libraries finds libpython and remembers where it was; nil asks each time.
	libraries *pyembed.Finder

	// lookupEnv reads a variable of the worker's environment.
	lookupEnv func(name string) (string, bool)

	// reload asks for the plugin's own modules to be read again, where the mode
	// caches code in this process (python).
	reload bool
}

// starterFor returns the starter of a manifest's mode.
func starterFor(m core.Manifest) starter {
	switch m.Mode {
	case core.ModeSO:
		if m.Isolated {
			return startIsolatedSO
		}
		return startSO
	case core.ModePython:
		return startPython
	}
	switch m.Sidecar.Protocol {
	case core.ProtocolGRPC:
		return startGRPC
	case core.ProtocolFramedJSON:
		return startFramedJSON
	}
	return startFramed
}
