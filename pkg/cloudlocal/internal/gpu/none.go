//go:build !linux || !cgo

package gpu

import "runtime"

// Read reports that this program cannot look for GPUs.
func Read() Report {
	if runtime.GOOS != "linux" {
		return Report{Reason: "NVIDIA GPUs are read on Linux only"}
	}
	return Report{Reason: "this program was built without cgo, which reading NVIDIA GPUs takes"}
}
