package config

import (
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Key is one row of the schema.
type Key struct {
	Name    string   // dotted
	Aliases []string // other spellings in files, of older configurations
	Type    Type
	Who     Program // the programs that use it
	Doc     string  // one sentence, with the unit where the type does not say it

	// DefaultDoc is the default for people; Default makes the value as text, empty
	// for none. Timing keys have none: they follow the heartbeat interval.
	DefaultDoc string
	def        func(dataDir string, p Program) string

	check func(v value) string  // the broken rule, or empty
	bind  func(c *Config) any   // pointer to the field
	fold  func(s string) string // brings accepted spellings into one; nil: none
}

// Env is the key's environment variable.
func (k Key) Env() string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(k.Name, ".", "_"))
}

const (
	everyone = Coordinator | Worker | Operator
	nodes    = Coordinator | Worker
	dialers  = Worker | Operator
)

// Keys returns the schema in the order in which it is documented and printed.
func Keys() []Key {
	keys := append(generalKeys(), transportKeys()...)
	return append(keys, workKeys()...)
}

func generalKeys() []Key {
	return []Key{
		{Name: "run_id", Type: TypeRunID, Who: nodes, DefaultDoc: "made once and kept in storage",
			Doc:  "The run's ULID. A worker takes over the coordinator's.",
			bind: func(c *Config) any { return &c.RunID }},
		{Name: "coordinator_addr", Type: TypeString, Who: dialers, def: text("127.0.0.1:50051"),
			Doc:   "Address of the coordinator, host:port. An https:// in front is dropped.",
			check: checkDialAddr, fold: dropScheme, bind: func(c *Config) any { return &c.CoordinatorAddr }},
		{Name: "coordinator_domain", Type: TypeString, Who: dialers, def: text("localhost"),
			Doc:   "Name that the coordinator's certificate must carry.",
			check: checkHostName, bind: func(c *Config) any { return &c.CoordinatorDomain }},
		{Name: "plugins", Type: TypeList, Who: Worker, DefaultDoc: "none",
			Doc:   "Manifest files or plugin names that the worker loads.",
			check: checkNoEmpty, bind: func(c *Config) any { return &c.Plugins }},
		{Name: "storage.backend", Type: TypeString, Who: nodes, def: text("embedded"),
			Doc:   "Kind of store; embedded is the only one.",
			check: oneOf("embedded"), bind: func(c *Config) any { return &c.StorageBackend }},
		{Name: "storage.embedded.path", Aliases: []string{"storage.path"}, Type: TypeString, Who: nodes,
			DefaultDoc: "./data/rollout.db, a worker's ./data/worker.db",
			Doc:        "File of the embedded store.",
			def: func(dir string, p Program) string {
				if p == Worker {
					return filepath.Join(dir, "worker.db")
				}
				return filepath.Join(dir, "rollout.db")
			},
			check: checkNotEmpty, bind: func(c *Config) any { return &c.StoragePath }},
		{Name: "object_store.root", Type: TypeString, Who: nodes, def: below("object-store"),
			Doc:   "Directory of the object store.",
			check: checkNotEmpty, bind: func(c *Config) any { return &c.ObjectRoot }},
		{Name: "secrets.allow", Type: TypeList, Who: Worker, DefaultDoc: "none",
			Doc:   "Names of the secrets that may be read.",
			check: checkSecretNames, bind: func(c *Config) any { return &c.SecretsAllow }},
		{Name: "secrets.dir", Type: TypeString, Who: Worker, DefaultDoc: "none",
			Doc:  "Directory of secret files, read beside the environment.",
			bind: func(c *Config) any { return &c.SecretsDir }},
		{Name: "log.level", Type: TypeString, Who: everyone, def: text("info"),
			Doc:   "Lowest level of logs and events: debug, info, warn or error.",
			check: oneOf("debug", "info", "warn", "error"), bind: func(c *Config) any { return &c.LogLevel }},
		{Name: "log.format", Type: TypeString, Who: everyone, def: text("auto"),
			Doc:   "Form of logs: text, json, or auto for text on a terminal and json elsewhere.",
			check: oneOf("auto", "text", "json"), bind: func(c *Config) any { return &c.LogFormat }},
	}
}

func transportKeys() []Key {
	return []Key{
		{Name: "transport.protocol", Type: TypeString, Who: nodes, def: text("h2"),
			Doc:   "h2 or quic. quic is EXPERIMENTAL and must be the same on both sides.",
			check: oneOf("h2", "quic"), bind: func(c *Config) any { return &c.Protocol }},
		{Name: "transport.listen_addr", Type: TypeString, Who: Coordinator, def: text("127.0.0.1:50051"),
			Doc:   "Address the coordinator listens on, host:port. Port 0 picks a free one.",
			check: checkListenAddr, bind: func(c *Config) any { return &c.ListenAddr }},
		{Name: "transport.server_names", Type: TypeList, Who: Coordinator, DefaultDoc: "none",
			Doc:   "Further DNS names and IPs for the server certificate.",
			check: checkServerNames, bind: func(c *Config) any { return &c.ServerNames }},
		{Name: "transport.tls_dir", Type: TypeString, Who: everyone, def: below("tls"),
			Doc:   "Directory of the CA, the join token and the operator's identity.",
			check: checkNotEmpty, bind: func(c *Config) any { return &c.TLSDir }},
		{Name: core.KeyHeartbeatInterval, Type: TypeDuration, Who: Coordinator, DefaultDoc: "500ms",
			Doc:  "Time between two beats, H. Workers are told at registration.",
			bind: func(c *Config) any { return &c.Timing.HeartbeatInterval }},
		{Name: core.KeySelfFence, Type: TypeDuration, Who: Coordinator, DefaultDoc: "1.5 H",
			Doc:  "Silence after which a worker stops acting, from the send of its last acknowledged beat.",
			bind: func(c *Config) any { return &c.Timing.SelfFence }},
		{Name: core.KeyFailure, Type: TypeDuration, Who: Coordinator, DefaultDoc: "1.75 H",
			Doc:  "Silence after which the coordinator declares a worker failed, from the receipt of its last beat.",
			bind: func(c *Config) any { return &c.Timing.Failure }},
		{Name: core.KeySkew, Type: TypeDuration, Who: Coordinator, DefaultDoc: "H/8",
			Doc:  "Clock drift that the two silences leave room for; more is reported.",
			bind: func(c *Config) any { return &c.Timing.Skew }},
	}
}

func workKeys() []Key {
	return []Key{
		{Name: "worker.slots", Type: TypeInt, Who: Worker, DefaultDoc: "number of CPUs",
			Doc: "Items that a worker works on at once.",
			def: func(string, Program) string {
				return strconv.Itoa(runtime.GOMAXPROCS(0)) // knows the CPU quota of a container
			},
			check: between(1, 4096), bind: func(c *Config) any { return &c.WorkerSlots }},
		{Name: "worker.drain_timeout", Type: TypeDuration, Who: Worker, def: text("30s"),
			Doc:   "How long a worker may finish its work after it was told to leave.",
			check: checkPositive, bind: func(c *Config) any { return &c.DrainTimeout }},
		{Name: "worker.preemption_notice_file", Type: TypeString, Who: Worker, DefaultDoc: "none",
			Doc:  "File whose appearance announces that the machine will be taken away.",
			bind: func(c *Config) any { return &c.PreemptionNoticeFile }},
		{Name: "work.max_attempts", Type: TypeInt, Who: Coordinator, def: text("3"),
			Doc:   "Failures after which an item is dead.",
			check: between(1, 1000000), bind: func(c *Config) any { return &c.MaxAttempts }},
		{Name: "work.max_losses", Type: TypeInt, Who: Coordinator, def: text("5"),
			Doc:   "Lost workers after which an item is dead.",
			check: between(1, 1000000), bind: func(c *Config) any { return &c.MaxLosses }},
	}
}

// text is a default that depends on nothing.
func text(s string) func(string, Program) string {
	return func(string, Program) string { return s }
}

// below is a default path below the data directory.
func below(name string) func(string, Program) string {
	return func(dir string, _ Program) string { return filepath.Join(dir, name) }
}

// schema is the table prepared for look-ups.
type schema struct {
	keys   []Key
	byName map[string]int  // names and aliases
	tables map[string]bool // dotted prefixes of names
	envs   map[string]int
}

func newSchema() *schema {
	s := &schema{keys: Keys(), byName: map[string]int{}, tables: map[string]bool{}, envs: map[string]int{}}
	for i, k := range s.keys {
		s.envs[k.Env()] = i
		for _, name := range append([]string{k.Name}, k.Aliases...) {
			s.byName[name] = i
			for at := strings.LastIndexByte(name, '.'); at > 0; at = strings.LastIndexByte(name[:at], '.') {
				s.tables[name[:at]] = true
			}
		}
	}
	return s
}
