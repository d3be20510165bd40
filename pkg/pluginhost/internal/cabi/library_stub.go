//go:build !cgo || !linux

package cabi

import "github.com/rollout-substrate/rollout/pkg/core"

// Library is an open shared library. This build has none.
type Library struct{}

// Open answers [core.CodeUnsupported]: opening a library needs Linux and cgo.
func Open(o Options) (*Library, error) { return nil, unsupported(o.Path) }

func unsupported(path string) error {
	return core.Errorf(op, core.CodeUnsupported,
		"%s: shared libraries need a build for Linux with cgo; use a sidecar instead", path)
}

// ABI returns 0.
func (l *Library) ABI() int { return 0 }

// Name returns the empty string.
func (l *Library) Name() string { return "" }

// Version returns the empty string.
func (l *Library) Version() string { return "" }

// ThreadSafe returns false.
func (l *Library) ThreadSafe() bool { return false }

// HasBatch returns false.
func (l *Library) HasBatch() bool { return false }

// Init answers [core.CodeUnsupported].
func (l *Library) Init([]byte) error { return unsupported("init") }

// Preflight answers [core.CodeUnsupported].
func (l *Library) Preflight() error { return unsupported("preflight") }

// Call answers [core.CodeUnsupported].
func (l *Library) Call(string, []byte) ([]byte, error) { return nil, unsupported("call") }

// CallBatch answers [core.CodeUnsupported].
func (l *Library) CallBatch(string, [][]byte) ([]core.CallResult, error) {
	return nil, unsupported("call_batch")
}

// Shutdown does nothing.
func (l *Library) Shutdown() {}

// PlainFaults does nothing.
func PlainFaults() {}
