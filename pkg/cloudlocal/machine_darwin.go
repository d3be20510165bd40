package cloudlocal

import (
	"math"
	"runtime"

	"github.com/shirou/gopsutil/v3/cpu"
	"github.com/shirou/gopsutil/v3/disk"
	"github.com/shirou/gopsutil/v3/host"
	"github.com/shirou/gopsutil/v3/load"
	"github.com/shirou/gopsutil/v3/mem"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func (m *Machine) readSystem(inv *core.Inventory) {
	note := func(what string, err error) bool {
		if err != nil {
			inv.Notes = append(inv.Notes, what+": "+err.Error())
		}
		return err == nil
	}
	if h, err := host.Info(); note("host", err) {
		inv.Hostname, inv.Kernel = h.Hostname, h.KernelVersion
	}
	n, err := cpu.Counts(true)
	if !note("cpu", err) {
		n = runtime.NumCPU()
	}
	inv.CPU.Machine = core.Quantity{Value: int64(n), Source: "sysctl hw.logicalcpu"}
	inv.CPU.UsableMilli = core.Quantity{Value: 1000 * int64(n), Source: "sysctl hw.logicalcpu"}
	if c, err := cpu.Info(); note("cpu", err) && len(c) > 0 {
		inv.CPU.Model = c[0].ModelName
		if c[0].Mhz > 0 {
			inv.CPU.FrequencyMHz = core.Quantity{Value: int64(c[0].Mhz), Source: "sysctl hw.cpufrequency"}
		}
	}
	if l, err := load.Avg(); note("load", err) {
		inv.CPU.LoadAvgCentis = core.Quantity{Value: int64(math.Round(l.Load1 * 100)), Source: "getloadavg"}
	}
	if v, err := mem.VirtualMemory(); note("memory", err) {
		total := core.Quantity{Value: int64(v.Total >> 20), Source: "sysctl hw.memsize"}
		inv.Memory.MachineMiB, inv.Memory.UsableMiB = total, total
		inv.Memory.AvailableMiB = core.Quantity{Value: int64(v.Available >> 20), Source: "vm_stat"}
	}
}

func (m *Machine) fsType(dir string) string {
	u, err := disk.Usage(dir)
	if err != nil {
		return ""
	}
	return u.Fstype
}
