package cloudlocal

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"golang.org/x/sync/singleflight"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal/internal/gpu"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// MachineConfig configures a [Machine]. The zero value is usable.
type MachineConfig struct {
	DataDir    string // directory whose disk is described; default the working directory
	NoticeFile string // file whose appearance announces that the machine goes away, see [ParseNotice]; empty: none
	Root       fs.FS  // where proc and sys are read, on Linux; nil: the machine's own root

	// GPUs lists the GPUs, with the reason when there is none and notes on what
	// could not be read. Nil: NVIDIA's, through the driver's library.
	GPUs func() (gpus []core.GPUInfo, reason string, notes []string)
}

// Machine tells what the machine is made of, and watches for the notice that it
// goes away.
type Machine struct {
	cfg    MachineConfig
	flight singleflight.Group
	disk   func(dir string) (total, free int64, err error) // bytes; stands for the system's call in tests
}

var _ core.ComputeHint = (*Machine)(nil)

// NewMachine returns a machine. It needs no closing.
func NewMachine(cfg MachineConfig) *Machine {
	if cfg.DataDir == "" {
		cfg.DataDir = "."
	}
	if cfg.Root == nil {
		cfg.Root = os.DirFS("/")
	}
	if cfg.GPUs == nil {
		cfg.GPUs = func() ([]core.GPUInfo, string, []string) {
			r := gpu.Read()
			return r.GPUs, r.Reason, r.Notes
		}
	}
	return &Machine{cfg: cfg, disk: diskSpace}
}

// Inventory implements [core.ComputeHint]. A driver or a network disk may hold the
// reading up; callers that come meanwhile share it, and each leaves it when its own
// context ends.
func (m *Machine) Inventory(ctx context.Context) (core.Inventory, error) {
	const op = "machine: inventory"
	if err := ctx.Err(); err != nil {
		return core.Inventory{}, core.Wrap(op, core.CodeCanceled, err)
	}
	read := m.flight.DoChan("", func() (any, error) { return m.read(), nil })
	select {
	case r := <-read:
		inv, ok := r.Val.(core.Inventory)
		if !ok {
			return core.Inventory{}, core.Errorf(op, core.CodeInternal, "the reading gave no inventory: %w", r.Err)
		}
		return clone(inv), nil
	case <-ctx.Done():
		return core.Inventory{}, core.Wrap(op, core.CodeCanceled, ctx.Err())
	}
}

// clone copies what callers may change.
func clone(inv core.Inventory) core.Inventory {
	inv.GPUs, inv.Notes = slices.Clone(inv.GPUs), slices.Clone(inv.Notes)
	for i := range inv.GPUs {
		inv.GPUs[i].MIGDevices = slices.Clone(inv.GPUs[i].MIGDevices)
	}
	return inv
}

func (m *Machine) read() core.Inventory {
	inv := core.Inventory{OS: runtime.GOOS, Arch: runtime.GOARCH}
	m.readSystem(&inv)
	m.readDisk(&inv)
	gpus, reason, notes := m.cfg.GPUs()
	inv.GPUs, inv.GPUReason = gpus, reason
	inv.Notes = append(inv.Notes, notes...)
	if inv.GPUs == nil {
		inv.GPUs = []core.GPUInfo{}
	}
	return inv
}

// readDisk describes the disk of the data directory, or of the nearest directory
// above it that is there.
func (m *Machine) readDisk(inv *core.Inventory) {
	dir, err := filepath.Abs(m.cfg.DataDir)
	if err != nil {
		inv.Notes = append(inv.Notes, "disk: "+err.Error())
		return
	}
	inv.Disk.Path = dir
	for {
		total, free, err := m.disk(dir)
		if err == nil {
			inv.Disk.TotalMiB, inv.Disk.FreeMiB = total>>20, free>>20
			break
		}
		parent := filepath.Dir(dir)
		if parent == dir || !os.IsNotExist(err) {
			inv.Notes = append(inv.Notes, "disk: "+err.Error())
			return
		}
		dir = parent
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	inv.Disk.FSType = m.fsType(dir)
}
