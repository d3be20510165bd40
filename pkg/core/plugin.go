package core

import (
	"context"
	"time"
)

// Limits of plugin calls.
const (
	MaxCallPayload = 16 << 20 // bytes of one payload, and of one result
	MaxMethodLen   = 255      // bytes of a method's name
	MaxBatchLen    = 4096     // payloads of one batch
)

// PluginKind says what a plugin is for.
type PluginKind string

// The kinds a manifest may name.
const (
	KindEnvHarness       PluginKind = "env-harness"
	KindToolHarness      PluginKind = "tool-harness"
	KindEvalHarness      PluginKind = "eval-harness"
	KindRewardModel      PluginKind = "reward-model"
	KindInferenceBackend PluginKind = "inference-backend"
	KindStorage          PluginKind = "storage"
	KindQueue            PluginKind = "queue"
	KindObjectStore      PluginKind = "object-store"
	KindCustom           PluginKind = "custom"
)

// PluginMode says how a plugin's code is run.
type PluginMode string

// The modes. Manifests of the Rust original name them cdylib or rust-cdylib,
// pyo3, and sidecar.
const (
	ModeSO      PluginMode = "so"
	ModePython  PluginMode = "python"
	ModeSidecar PluginMode = "sidecar"
	ModeGo      PluginMode = "go" // Go functions of the worker's own program; in no manifest
)

// SidecarProtocol is the wire between host and sidecar.
type SidecarProtocol string

// The sidecar wires.
const (
	ProtocolFramed     SidecarProtocol = "framed"          // length-prefixed frames over fd 3
	ProtocolGRPC       SidecarProtocol = "grpc"            // go-plugin over a Unix socket
	ProtocolFramedJSON SidecarProtocol = "framed-json-uds" // the Rust original's wire
)

// Manifest is a validated plugin manifest with every default filled in.
type Manifest struct {
	Name             string     // [a-z0-9-], unique per worker
	Version          string     // the author's version
	Kind             PluginKind // what it is for
	CustomKind       string     // the name of a custom kind
	TraitID          string     // the interface it implements, opaque to the host
	Mode             PluginMode // how its code runs
	Isolated         bool       // so only: run in a process of its own
	ConfigSchemaPath string     // absolute path of a JSON Schema for Config; empty: none
	NetworkAllowlist []string   // empty: no network
	Runtime          Runtime
	Sandbox          Sandbox
	SO               SOEntry
	Python           PythonEntry
	Sidecar          SidecarEntry
	Config           map[string]any // given to init

	Path   string // absolute path of the manifest file
	Dir    string // absolute directory of the manifest
	Digest string // lower-case hex BLAKE3-256 over the manifest and the plugin's own files
}

// ID returns "<name>-<version>", which events carry as plugin_id.
func (m Manifest) ID() string { return m.Name + "-" + m.Version }

// Runtime is a manifest's [runtime] table.
type Runtime struct {
	PythonMin    string        // such as "3.11"; empty: any supported
	Interpreter  string        // absolute path, or empty for python3 on PATH
	GPU          bool          // the NVIDIA devices too
	MemoryMiB    int           // resident memory of a sidecar's group; 0: no limit
	Concurrency  int           // calls at once in one worker, at least 1
	CallTimeout  time.Duration // the deadline that the worker gives every call
	StartTimeout time.Duration // bound of load, init and preflight together
}

// Sandbox is a manifest's [sandbox] table.
type Sandbox struct {
	Read    []string // further absolute paths that a sidecar may read
	Require bool     // refuse to load where containment cannot be enforced
}

// SOEntry is a manifest's [entry.so] table.
type SOEntry struct {
	Path   string // absolute
	Symbol string
	SHA256 string // lower-case hex pin; empty: none
}

// PythonEntry is a manifest's [entry.python] table.
type PythonEntry struct {
	Module  string
	Factory string
}

// SidecarEntry is a manifest's [entry.sidecar] table.
type SidecarEntry struct {
	Command  []string
	Protocol SidecarProtocol
	EnvAllow []string // names of variables passed through
}

// Containment says which limits hold for one loaded plugin.
type Containment struct {
	Enforced []string `json:"enforced"`          // such as "landlock", "network", "memory:cgroup"
	Missing  []string `json:"missing,omitempty"` // what this machine or mode cannot enforce, with the reason
}

// PluginInfo describes a loaded plugin.
type PluginInfo struct {
	Name        string // the name it is called by
	ID          string // "<name>-<version>"
	Version     string
	Kind        PluginKind
	TraitID     string
	Mode        PluginMode
	Digest      string
	Generation  int           // 1 after load, one more after each reload or respawn
	Start       time.Duration // load, init and preflight of this generation
	Containment Containment
	CallTimeout time.Duration
	Concurrency int
	PID         int // of a sidecar, else 0
}

// CallResult is one answer of a batch: a result or an error, never both.
type CallResult struct {
	Result []byte
	Err    error
}

// PluginEvent is what a host reports about a plugin's life.
type PluginEvent struct {
	Topic string // one of the plugin topics, or empty for a log line of the plugin
	Info  PluginInfo
	Level EventLevel
	Line  string // of a log line
	Attrs Attrs
}

// PluginHost runs plugins of every mode behind one behaviour:
// load, init, preflight, then calls and batches, then shutdown.
//
// Isolation: a plugin that fails, hangs or dies gives its caller a typed error
// and delays no other plugin, and no lock is held while plugin code runs. Code
// loaded into the process (so without isolation, and python) can still end it.
//
// Errors: the plugin's own failure is [CodePluginError] with its message and
// hint; its death [CodePluginCrashed] with exit status and last lines of stderr;
// a stuck instance [CodePluginPoisoned]; a broken protocol, a missing method or a
// refused reload [CodePluginContract]; a payload or result above
// [MaxCallPayload] [CodeTooLarge]; an unknown name [CodeNotFound]; no free slot
// before the context ended the context's code.
type PluginHost interface {
	// Load starts a plugin under its manifest's name and returns after a
	// successful preflight. On failure nothing of it stays. A name in use is
	// [CodeAlreadyExists].
	Load(ctx context.Context, m Manifest) (PluginInfo, error)

	// Call runs one method. It adds no deadline of its own: a context without one
	// waits as long as the plugin takes. The result is the caller's.
	Call(ctx context.Context, plugin, method string, payload []byte) ([]byte, error)

	// CallBatch runs one method for many payloads, in the plugin's call_batch
	// where it has one, and returns one answer for each, in order. The error is
	// set only when no payload was answered.
	CallBatch(ctx context.Context, plugin, method string, payloads [][]byte) ([]CallResult, error)

	// Plugins describes every loaded plugin, sorted by name.
	Plugins() []PluginInfo

	// Unload finishes calls in flight until ctx ends, shuts the plugin down and
	// frees its name.
	Unload(ctx context.Context, plugin string) error

	// Shutdown unloads every plugin in reverse order of loading and leaves no
	// process or file behind, by force once ctx ends.
	Shutdown(ctx context.Context) error
}

// Reloader is a [PluginHost] that exchanges a plugin's code while calls go on.
type Reloader interface {
	// Reload starts the plugin's files as they are now, sends new calls there
	// and lets calls in flight finish. When the new code does not start, the old
	// one stays and the error says why. Mode so is refused with
	// [CodePluginContract].
	Reload(ctx context.Context, m Manifest) (PluginInfo, error)
}
