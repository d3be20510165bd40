package launch

import (
	"fmt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Numbers of the descriptors that a launcher is started with, beyond 0-2.
const (
	FDStream = 3
	FDStdout = 4
	FDStderr = 5
	FDLock   = 6
)

// Spec says what to start and within which limits.
type Spec struct {
	Exe       string   `json:"exe"`            // absolute path of the program
	Argv      []string `json:"argv"`           // with the program's name first
	Env       []string `json:"env"`            // the whole environment
	Dir       string   `json:"dir"`            // working directory
	Stream    bool     `json:"stream"`         // pass descriptor 3 on
	Remove    []string `json:"remove"`         // directories to remove at the end; the first is the run directory
	Write     []string `json:"write"`          // directories the sidecar may write below
	Read      []string `json:"read"`           // files and directories it may read and execute
	Devices   []string `json:"devices"`        // device files it may read and write
	Network   bool     `json:"network"`        // leave the network on
	MemoryMiB int      `json:"memory_mib"`     // of the whole group; 0: no limit
	Require   bool     `json:"require"`        // start nothing where a limit cannot be enforced
	Missing   []string `json:"missing"`        // what the worker knows to be unenforceable
	UserNS    bool     `json:"user_namespace"` // the launcher was started in one of its own
}

// Report is one line from launcher to worker. Exactly one field is set.
type Report struct {
	Started *Started `json:"started,omitempty"`
	Failed  *Failed  `json:"failed,omitempty"`
	Exit    *Exit    `json:"exit,omitempty"`
}

// Started says that the sidecar runs.
type Started struct {
	PID         int              `json:"pid"`
	Containment core.Containment `json:"containment"`
}

// Failed says that it could not be started.
type Failed struct {
	Code    core.Code `json:"code"`
	Message string    `json:"message"`
}

// Exit says how the sidecar ended.
type Exit struct {
	Code   int    `json:"code"`             // of a normal exit, else -1
	Signal string `json:"signal,omitempty"` // that ended it
	Reason string `json:"reason,omitempty"` // why the launcher or the kernel killed it, when known
}

// String returns "exit status 3" or "signal: killed", with the reason.
func (e Exit) String() string {
	s := fmt.Sprintf("exit status %d", e.Code)
	if e.Signal != "" {
		s = "signal: " + e.Signal
	}
	if e.Reason != "" {
		s += " (" + e.Reason + ")"
	}
	return s
}
