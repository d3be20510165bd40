//go:build linux && cgo

package gpu

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/NVIDIA/go-nvml/pkg/nvml"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock"
	"github.com/NVIDIA/go-nvml/pkg/nvml/mock/dgxa100"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// box is a machine with eight A100, on which every call that is read is answered.
func box() *dgxa100.Server {
	s := dgxa100.New()
	for i, d := range s.Devices {
		d := d.(*dgxa100.Device)
		d.MemoryInfo.Free = uint64(i) << 30
		d.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) {
			return nvml.Utilization{Gpu: uint32(10 * i)}, nvml.SUCCESS
		}
	}
	return s
}

func TestEightGPUs(t *testing.T) {
	s := box()
	r := read(s)
	if len(r.GPUs) != 8 || r.Reason != "" || len(r.Notes) != 0 {
		t.Fatalf("%+v", r)
	}
	for i, g := range r.GPUs {
		d := s.Devices[i].(*dgxa100.Device)
		want := core.GPUInfo{Index: i, Name: d.Config.Name, UUID: d.UUID, MemoryMiB: 40960, MemoryFreeMiB: int64(i) << 10, Driver: "550.54.15", UtilizationPct: 10 * i}
		if !equal(g, want) {
			t.Errorf("gpu %d: %+v, want %+v", i, g, want)
		}
	}
}

func equal(a, b core.GPUInfo) bool {
	same := slices.Equal(a.MIGDevices, b.MIGDevices)
	a.MIGDevices, b.MIGDevices = nil, nil
	return same && a.Index == b.Index && a.Name == b.Name && a.UUID == b.UUID && a.MemoryMiB == b.MemoryMiB && a.MemoryFreeMiB == b.MemoryFreeMiB &&
		a.Driver == b.Driver && a.UtilizationPct == b.UtilizationPct && a.MIGEnabled == b.MIGEnabled
}

func TestPartitionedGPU(t *testing.T) {
	s := box()
	d := s.Devices[3].(*dgxa100.Device)
	d.MigMode = nvml.DEVICE_MIG_ENABLE
	d.GetMaxMigDeviceCountFunc = func() (int, nvml.Return) { return 7, nvml.SUCCESS }
	d.GetMigDeviceHandleByIndexFunc = func(n int) (nvml.Device, nvml.Return) {
		if n%2 == 1 {
			return nil, nvml.ERROR_NOT_FOUND
		}
		return &mock.Device{
			GetUUIDFunc:       func() (string, nvml.Return) { return "MIG-" + string(rune('a'+n)), nvml.SUCCESS },
			GetMemoryInfoFunc: func() (nvml.Memory, nvml.Return) { return nvml.Memory{Total: 5 << 30}, nvml.SUCCESS },
		}, nvml.SUCCESS
	}
	r := read(s)
	want := []core.MIGDevice{{UUID: "MIG-a", MemoryMiB: 5120}, {UUID: "MIG-c", MemoryMiB: 5120}, {UUID: "MIG-e", MemoryMiB: 5120}, {UUID: "MIG-g", MemoryMiB: 5120}}
	if g := r.GPUs[3]; !g.MIGEnabled || !slices.Equal(g.MIGDevices, want) || g.UtilizationPct != -1 {
		t.Errorf("%+v", g)
	}
	if g := r.GPUs[2]; g.MIGEnabled || g.MIGDevices != nil {
		t.Errorf("%+v", g)
	}
}

// TestOldDriver takes functions away from the library. The fake panics when one of
// them is called all the same.
func TestOldDriver(t *testing.T) {
	gone := func(s *dgxa100.Server, symbols ...string) {
		s.LookupSymbolFunc = func(name string) error {
			if slices.Contains(symbols, name) {
				return errors.New("no such symbol")
			}
			return nil
		}
	}
	s := box()
	gone(s, "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMigMode", "nvmlSystemGetDriverVersion", "nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo")
	s.SystemGetDriverVersionFunc = nil
	for _, d := range s.Devices {
		d := d.(*dgxa100.Device)
		d.GetUtilizationRatesFunc, d.GetMigModeFunc, d.GetUUIDFunc, d.GetNameFunc, d.GetMemoryInfoFunc = nil, nil, nil, nil, nil
	}
	r := read(s)
	if len(r.GPUs) != 8 || r.GPUs[7].UtilizationPct != -1 || len(r.Notes) != 5 {
		t.Errorf("%+v", r)
	}
	s = box()
	gone(s, "nvmlDeviceGetCount")
	s.DeviceGetCountFunc = nil
	if r := read(s); r.GPUs != nil || !strings.Contains(r.Reason, "too old") {
		t.Errorf("%+v", r)
	}
}

func TestNoGPU(t *testing.T) {
	for ret, want := range map[nvml.Return]string{
		nvml.ERROR_LIBRARY_NOT_FOUND: "no NVIDIA driver is installed",
		nvml.ERROR_DRIVER_NOT_LOADED: "not loaded",
		nvml.Return(999):             "NVML error 999",
	} {
		s := box()
		s.InitFunc = func() nvml.Return { return ret }
		if r := read(s); r.GPUs != nil || !strings.Contains(r.Reason, want) {
			t.Errorf("%+v does not say %q", r, want)
		}
	}
	s := box()
	s.Devices = nil
	s.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, nvml.SUCCESS }
	if r := read(s); r.GPUs != nil || !strings.Contains(r.Reason, "sees no GPU") {
		t.Errorf("%+v", r)
	}
	s.DeviceGetCountFunc = func() (int, nvml.Return) { return 0, nvml.ERROR_UNKNOWN }
	if r := read(s); r.GPUs != nil || r.Reason == "" {
		t.Errorf("%+v", r)
	}
}

// TestLostGPU has one GPU that no longer answers and one that cannot be opened.
func TestLostGPU(t *testing.T) {
	s := box()
	lost := s.Devices[5].(*dgxa100.Device)
	lost.GetMemoryInfoFunc = func() (nvml.Memory, nvml.Return) { return nvml.Memory{}, nvml.ERROR_GPU_IS_LOST }
	lost.GetUtilizationRatesFunc = func() (nvml.Utilization, nvml.Return) { return nvml.Utilization{}, nvml.ERROR_GPU_IS_LOST }
	open := s.DeviceGetHandleByIndexFunc
	s.DeviceGetHandleByIndexFunc = func(i int) (nvml.Device, nvml.Return) {
		if i == 2 {
			return nil, nvml.ERROR_NO_PERMISSION
		}
		return open(i)
	}
	r := read(s)
	if len(r.GPUs) != 7 || r.Reason != "" || len(r.Notes) != 3 {
		t.Errorf("%+v", r)
	}
	s.DeviceGetHandleByIndexFunc = func(int) (nvml.Device, nvml.Return) { return nil, nvml.ERROR_NO_PERMISSION }
	if r := read(s); r.GPUs != nil || !strings.Contains(r.Reason, "may not talk") {
		t.Errorf("%+v", r)
	}
}

// TestThisMachine reads whatever is here, twice: the library can be opened again.
func TestThisMachine(t *testing.T) {
	for range 2 {
		r := Read()
		if (len(r.GPUs) == 0) == (r.Reason == "") {
			t.Errorf("%+v", r)
		}
		t.Logf("%+v", r)
	}
}
