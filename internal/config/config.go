package config

import (
	"path/filepath"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Program is a set of programs, as bits.
type Program uint8

// The programs. The zero set belongs to nobody.
const (
	Coordinator Program = 1 << iota
	Worker
	Operator // the rollout tool
)

// DefaultDataDir is where every default path lies unless a data directory is given.
const DefaultDataDir = "data"

// Config holds every value of every program, defaults filled in. Keys of other
// programs are filled too and ignored by who does not need them.
type Config struct {
	DataDir string // moves defaults only; identity and sidecars lie below it

	RunID          core.RunID // zero: made by the coordinator, taken over by workers
	StorageBackend string     // "embedded"
	StoragePath    string     // file of the program's own store
	ObjectRoot     string     // directory of the object store

	SecretsAllow []string // names of secrets that a worker may read
	SecretsDir   string   // directory of secret files; empty: environment only

	Protocol    string      // "h2" or "quic"
	ListenAddr  string      // host:port; port 0 picks a free one
	ServerNames []string    // further DNS names and IPs of the server certificate
	TLSDir      string      // directory of the CA, the join token and the admin identity
	Timing      core.Timing // checked together

	CoordinatorAddr   string // host:port that workers and the operator dial
	CoordinatorDomain string // name expected in the server certificate

	Plugins              []string      // manifests or names that a worker loads
	WorkerSlots          int           // items a worker works on at once
	DrainTimeout         time.Duration // how long a drain may take
	PreemptionNoticeFile string        // file whose appearance announces preemption; empty: none

	MaxAttempts int // failures after which an item is dead
	MaxLosses   int // lost workers after which an item is dead

	LogLevel  string // debug, info, warn or error
	LogFormat string // auto, text or json
}

// IdentityDir is where a worker keeps its key and certificate.
func (c Config) IdentityDir() string { return filepath.Join(c.DataDir, "identity") }

// SidecarDir is where plugin processes have their run directories.
func (c Config) SidecarDir() string { return filepath.Join(c.DataDir, "sidecars") }
