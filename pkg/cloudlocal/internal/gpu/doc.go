// Package gpu reads the NVIDIA GPUs of the machine through the driver's own
// library, which is opened when it is asked and not before. Where there is no
// library, no driver or no GPU, and where the driver lacks a call, it says so in
// words; it neither fails nor crashes.
//
// Its one caller is package cloudlocal. It imports core for the types, and
// go-nvml where cgo is there to build it.
package gpu

import "github.com/rollout-substrate/rollout/pkg/core"

// Report is what could be read.
type Report struct {
	GPUs   []core.GPUInfo // nil when there is none
	Reason string         // why GPUs is empty; empty otherwise
	Notes  []string       // what could not be read of GPUs that are there
}
