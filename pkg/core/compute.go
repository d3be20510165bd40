package core

import (
	"context"
	"time"
)

// Quantity is a number with where it was read.
type Quantity struct {
	Value  int64  `json:"value"`
	Source string `json:"source"` // such as "cgroup v1 cpu.cfs_quota_us"; empty: unknown
}

// CPUInfo is what computes. Machine counts what the hardware has, Usable what
// this process may use, in thousandths of a CPU.
type CPUInfo struct {
	Model         string   `json:"model,omitempty"`
	Machine       Quantity `json:"machine"`        // logical CPUs
	UsableMilli   Quantity `json:"usable_milli"`   // after affinity and cgroup quota
	NUMANodes     Quantity `json:"numa_nodes"`     // 0: unknown
	FrequencyMHz  Quantity `json:"frequency_mhz"`  // 0: unknown
	LoadAvgCentis Quantity `json:"loadavg_centis"` // one-minute load average times 100
}

// MemoryInfo is memory in MiB.
type MemoryInfo struct {
	MachineMiB   Quantity `json:"machine_mib"`
	UsableMiB    Quantity `json:"usable_mib"` // after the cgroup limit
	AvailableMiB Quantity `json:"available_mib"`
}

// DiskInfo is the file system below the data directory, in MiB.
type DiskInfo struct {
	Path     string `json:"path"`
	FSType   string `json:"fs_type,omitempty"`
	TotalMiB int64  `json:"total_mib"`
	FreeMiB  int64  `json:"free_mib"` // available to an ordinary user
}

// MIGDevice is one slice of a partitioned GPU.
type MIGDevice struct {
	UUID      string `json:"uuid"`
	MemoryMiB int64  `json:"memory_mib"`
}

// GPUInfo is one GPU.
type GPUInfo struct {
	Index          int         `json:"index"`
	Name           string      `json:"name"`
	UUID           string      `json:"uuid"`
	MemoryMiB      int64       `json:"memory_mib"`
	MemoryFreeMiB  int64       `json:"memory_free_mib"`
	Driver         string      `json:"driver"`
	UtilizationPct int         `json:"utilization_pct"` // -1: unknown
	MIGEnabled     bool        `json:"mig_enabled"`
	MIGDevices     []MIGDevice `json:"mig_devices,omitempty"`
}

// Inventory is what one machine is made of, as far as it could be read. What
// could not is zero, and Notes says why.
type Inventory struct {
	Hostname     string     `json:"hostname"`
	OS           string     `json:"os"`
	Arch         string     `json:"arch"`
	Kernel       string     `json:"kernel"`
	InstanceType string     `json:"instance_type,omitempty"` // from DMI, on clouds that set it
	CPU          CPUInfo    `json:"cpu"`
	Memory       MemoryInfo `json:"memory"`
	Disk         DiskInfo   `json:"disk"`
	GPUs         []GPUInfo  `json:"gpus"`
	GPUReason    string     `json:"gpu_reason,omitempty"` // why GPUs is empty
	Notes        []string   `json:"notes,omitempty"`
}

// Preemption announces that the machine will be taken away.
type Preemption struct {
	At     time.Time // when; zero: unknown, soon
	Source string    // such as the notice file's path
	Reason string
}

// ComputeHint tells what this machine is and when it goes away.
type ComputeHint interface {
	// Inventory reads the machine. Parts that cannot be read are left zero and
	// named in Notes; it fails only when ctx ends.
	Inventory(ctx context.Context) (Inventory, error)

	// Preemption waits until the machine is announced to go, and returns ctx's
	// error when ctx ends first. Where nothing can announce it, it waits for ctx.
	Preemption(ctx context.Context) (Preemption, error)
}
