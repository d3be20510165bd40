// Package python carries the Python plugin SDK inside the Go binaries, so that a
// host can unpack it for interpreters that have installed nothing.
package python

import "embed"

// Files holds the package directory rollout_plugin as it lies in the source tree.
//
//go:embed rollout_plugin/*.py
var Files embed.FS
