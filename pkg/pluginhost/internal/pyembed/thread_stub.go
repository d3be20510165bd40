//go:build !cgo || !linux

package pyembed

import "github.com/rollout-substrate/rollout/pkg/core"

// Interpreter is the process's Python. This build has none.
type Interpreter struct{ lib Library }

// Open answers [core.CodeUnsupported]: embedding needs Linux and cgo.
func Open(lib Library, _ string) (*Interpreter, error) {
	return nil, core.Errorf(op, core.CodeUnsupported,
		"%s: mode python needs a build for Linux with cgo; use mode sidecar instead", lib.Path)
}

func (in *Interpreter) newThread() (thread, error) {
	_, err := Open(in.lib, "")
	return nil, err
}
