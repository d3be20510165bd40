//go:build !linux && !darwin

package cloudlocal

import (
	"os"
	"runtime"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// readSystem knows what the Go runtime knows: the substrate is not run here, the
// package only compiles.
func (m *Machine) readSystem(inv *core.Inventory) {
	if name, err := os.Hostname(); err == nil {
		inv.Hostname = name
	}
	n := int64(runtime.NumCPU())
	inv.CPU.Machine = core.Quantity{Value: n, Source: "runtime.NumCPU"}
	inv.CPU.UsableMilli = core.Quantity{Value: 1000 * n, Source: "runtime.NumCPU"}
	inv.Notes = append(inv.Notes, "memory, kernel and load are not read on "+runtime.GOOS)
}

func (m *Machine) fsType(string) string { return "" }
