//go:build linux && cgo

package gpu

import (
	"fmt"
	"slices"
	"sync"

	"github.com/NVIDIA/go-nvml/pkg/nvml"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// reading guards the tables in which go-nvml keeps the addresses of the library's
// functions: they are globals of that package and change whenever it is opened.
var reading sync.Mutex

// Read opens the driver's library, reads all GPUs and closes it again.
func Read() Report {
	reading.Lock()
	defer reading.Unlock()
	return read(nvml.New())
}

// read is Read with a library of the caller's choice.
func read(lib nvml.Interface) Report {
	if ret := lib.Init(); ret != nvml.SUCCESS {
		return Report{Reason: reasonOf("NVML did not start", ret)}
	}
	r := &reader{lib: lib, has: map[string]bool{}}
	r.all()
	if ret := lib.Shutdown(); ret != nvml.SUCCESS {
		r.note(-1, "shut NVML down", ret)
	}
	return r.Report
}

// reader reads through one open library. A function that an old driver lacks would
// end the process when it is called, so each is looked up before its first call.
type reader struct {
	Report
	lib    nvml.Interface
	has    map[string]bool
	driver string
}

func (r *reader) can(symbol string) bool {
	known, ok := r.has[symbol]
	if !ok {
		known = r.lib.Extensions().LookupSymbol(symbol) == nil
		r.has[symbol] = known
		if !known {
			r.Notes = append(r.Notes, "gpu: the driver's library has no "+symbol)
		}
	}
	return known
}

func (r *reader) note(index int, what string, ret nvml.Return) {
	where := "gpu"
	if index >= 0 {
		where = fmt.Sprintf("gpu %d", index)
	}
	r.Notes = append(r.Notes, reasonOf(where+": "+what, ret))
}

func (r *reader) all() {
	if r.can("nvmlSystemGetDriverVersion") {
		driver, ret := r.lib.SystemGetDriverVersion()
		if ret != nvml.SUCCESS {
			r.note(-1, "driver version", ret)
		}
		r.driver = driver
	}
	if !r.can("nvmlDeviceGetCount") || !r.can("nvmlDeviceGetHandleByIndex") {
		r.Reason = "the NVIDIA driver " + r.driver + " is too old to list its GPUs"
		return
	}
	count, ret := r.lib.DeviceGetCount()
	switch {
	case ret != nvml.SUCCESS:
		r.Reason = reasonOf("GPUs cannot be counted", ret)
		return
	case count == 0:
		r.Reason = "the NVIDIA driver " + r.driver + " sees no GPU"
		return
	}
	for i := range count {
		d, ret := r.lib.DeviceGetHandleByIndex(i)
		if ret != nvml.SUCCESS {
			r.note(i, "open", ret)
			continue
		}
		r.GPUs = append(r.GPUs, r.one(i, d))
	}
	if len(r.GPUs) == 0 {
		r.Reason = "none of the GPUs can be opened: " + r.Notes[len(r.Notes)-1]
	}
}

func (r *reader) one(i int, d nvml.Device) core.GPUInfo {
	g := core.GPUInfo{Index: i, Driver: r.driver, UtilizationPct: -1}
	var ret nvml.Return
	if r.can("nvmlDeviceGetName") {
		if g.Name, ret = d.GetName(); ret != nvml.SUCCESS {
			r.note(i, "name", ret)
		}
	}
	if r.can("nvmlDeviceGetUUID") {
		if g.UUID, ret = d.GetUUID(); ret != nvml.SUCCESS {
			r.note(i, "UUID", ret)
		}
	}
	if r.can("nvmlDeviceGetMemoryInfo") {
		m, ret := d.GetMemoryInfo()
		if ret != nvml.SUCCESS {
			r.note(i, "memory", ret)
		}
		g.MemoryMiB, g.MemoryFreeMiB = mib(m.Total), mib(m.Free)
	}
	r.partitions(i, d, &g)
	if !g.MIGEnabled && r.can("nvmlDeviceGetUtilizationRates") { // a partitioned GPU has none
		switch u, ret := d.GetUtilizationRates(); ret {
		case nvml.SUCCESS:
			g.UtilizationPct = int(min(u.Gpu, 100))
		case nvml.ERROR_NOT_SUPPORTED:
		default:
			r.note(i, "utilisation", ret)
		}
	}
	return g
}

// partitions reads the MIG devices of a GPU. Most GPUs cannot be partitioned, and most
// drivers before 450 know nothing of it: neither is worth a note.
func (r *reader) partitions(i int, d nvml.Device, g *core.GPUInfo) {
	for _, symbol := range []string{"nvmlDeviceGetMigMode", "nvmlDeviceGetMaxMigDeviceCount", "nvmlDeviceGetMigDeviceHandleByIndex"} {
		if r.lib.Extensions().LookupSymbol(symbol) != nil {
			return
		}
	}
	mode, _, ret := d.GetMigMode()
	if ret != nvml.SUCCESS || mode != nvml.DEVICE_MIG_ENABLE {
		if ret != nvml.SUCCESS && ret != nvml.ERROR_NOT_SUPPORTED {
			r.note(i, "MIG mode", ret)
		}
		return
	}
	g.MIGEnabled = true
	most, ret := d.GetMaxMigDeviceCount()
	if ret != nvml.SUCCESS {
		r.note(i, "MIG devices", ret)
		return
	}
	for n := range most {
		slice, ret := d.GetMigDeviceHandleByIndex(n)
		if ret == nvml.ERROR_NOT_FOUND {
			continue
		}
		if ret != nvml.SUCCESS {
			r.note(i, fmt.Sprintf("MIG device %d", n), ret)
			continue
		}
		uuid, ret := slice.GetUUID()
		if ret != nvml.SUCCESS {
			r.note(i, fmt.Sprintf("UUID of MIG device %d", n), ret)
		}
		m, ret := slice.GetMemoryInfo()
		if ret != nvml.SUCCESS {
			r.note(i, fmt.Sprintf("memory of MIG device %d", n), ret)
		}
		g.MIGDevices = append(g.MIGDevices, core.MIGDevice{UUID: uuid, MemoryMiB: mib(m.Total)})
	}
	g.MIGDevices = slices.Clip(g.MIGDevices)
}

func mib(bytes uint64) int64 { return int64(bytes >> 20) }

// reasonOf puts a return code into words without asking the library, which may be
// the one that is missing.
func reasonOf(what string, ret nvml.Return) string {
	why := map[nvml.Return]string{
		nvml.ERROR_LIBRARY_NOT_FOUND:       "libnvidia-ml.so.1 is not on this machine, so no NVIDIA driver is installed",
		nvml.ERROR_DRIVER_NOT_LOADED:       "the NVIDIA driver is not loaded",
		nvml.ERROR_NO_PERMISSION:           "this user may not talk to the NVIDIA driver",
		nvml.ERROR_LIB_RM_VERSION_MISMATCH: "the NVIDIA library and driver have different versions, which a restart of the machine cures",
		nvml.ERROR_GPU_IS_LOST:             "the GPU has fallen off the bus",
		nvml.ERROR_NOT_SUPPORTED:           "the GPU cannot do this",
		nvml.ERROR_FUNCTION_NOT_FOUND:      "the driver is too old for this call",
		nvml.ERROR_UNINITIALIZED:           "the library is not initialised",
		nvml.ERROR_TIMEOUT:                 "the driver took too long",
	}[ret]
	if why == "" {
		return fmt.Sprintf("%s: NVML error %d", what, int(ret))
	}
	return fmt.Sprintf("%s: %s (NVML error %d)", what, why, int(ret))
}
