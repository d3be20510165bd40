package cli

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/pluginhost"
)

// inventoryPatience bounds the reading of the machine, which a driver may hold up.
const inventoryPatience = 10 * time.Second

// leastMemoryMiB is the available memory below which plugins will meet the kernel's
// OOM killer soon.
const leastMemoryMiB = 512

// machine tells what the machine is made of, and its GPUs.
func (d *doctor) machine(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, inventoryPatience)
	defer cancel()
	inv, err := cloudlocal.NewMachine(cloudlocal.MachineConfig{DataDir: d.cfg.DataDir}).Inventory(ctx)
	if err != nil {
		d.add("machine", healthWarn, "see whether the GPU's driver or a network disk hangs", "could not be read within %v: %s", inventoryPatience, oneLine(err))
		return
	}
	text := fmt.Sprintf("%s/%s, kernel %s, %.1f of %d CPUs usable, %s of %s memory available",
		inv.OS, inv.Arch, inv.Kernel, float64(inv.CPU.UsableMilli.Value)/1000, inv.CPU.Machine.Value,
		size(inv.Memory.AvailableMiB.Value<<20), size(inv.Memory.UsableMiB.Value<<20))
	switch {
	case inv.Memory.AvailableMiB.Source != "" && inv.Memory.AvailableMiB.Value < leastMemoryMiB:
		d.add("machine", healthWarn, "stop other programs or raise the memory limit; plugins may be killed by the kernel", "%s", text)
	default:
		d.ok("machine", "%s", text)
	}
	if len(inv.GPUs) == 0 {
		d.add("gpu", healthNote, "nothing, unless a plugin asks for runtime.gpu; then install the driver or pass the devices into the container", "none: %s", inv.GPUReason)
	} else {
		g := inv.GPUs[0]
		d.ok("gpu", "%s, the first a %s with %d of %d MiB free, driver %s", count(len(inv.GPUs), "GPU"), g.Name, g.MemoryFreeMiB, g.MemoryMiB, g.Driver)
	}
	if len(inv.Notes) > 0 {
		d.add("inventory", healthNote, "nothing, unless scheduling by these figures matters", "not everything could be read: %s", strings.Join(inv.Notes, "; "))
	}
}

// python finds the interpreter of sidecars and the library of embedded plugins.
func (d *doctor) python(ctx context.Context) {
	const install = "install Python 3.11 or newer and put its python3 first on PATH (Debian, Ubuntu: apt install python3), or name one in a plugin's runtime.interpreter"
	py, err := pluginhost.ProbeSidecarPython(ctx, d.lookupEnv)
	if err != nil {
		d.add("python", healthFail, install, "%s", oneLine(err))
	} else {
		d.ok("python", "%s is Python %s", py.Executable, py.Version)
	}
	lib, err := pluginhost.ProbeEmbeddedPython(ctx, d.lookupEnv)
	if err != nil {
		d.add("libpython", healthWarn, "plugins of mode python need it: install it (Debian, Ubuntu: apt install libpython3-dev), or use mode sidecar", "%s", oneLine(err))
		return
	}
	d.ok("libpython", "%s of %s, Python %s", lib.Library, lib.Executable, lib.Version)
}

// compiler looks for what builds plugins in C and the programs themselves.
func (d *doctor) compiler(context.Context) {
	names := []string{"cc", "gcc", "clang"}
	if cc, _ := d.lookupEnv("CC"); strings.TrimSpace(cc) != "" {
		names = strings.Fields(cc)[:1] // the words behind it are its flags
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			d.ok("compiler", "%s", path)
			return
		}
	}
	d.add("compiler", healthWarn, "needed only to build plugins that are shared libraries, and these programs: install one (Debian, Ubuntu: apt install gcc libc6-dev)",
		"none of %s is on PATH", strings.Join(names, ", "))
}

// Limits that a program of ours needs of its user.
const (
	leastFiles = 256     // below this nothing larger than a try works
	goodFiles  = 8192    // a few hundred workers, or sidecars with ten descriptors each
	leastSize  = 1 << 20 // bytes of a file; the first store is larger
)

// limits reads the limits that children of this shell inherit. The programs raise
// their own soft limit of descriptors to the hard one.
func (d *doctor) limits(context.Context) {
	if files, ok := d.limit("open files", unix.RLIMIT_NOFILE); ok {
		const remedy = "raise it: ulimit -Hn 65536 as root, nofile in /etc/security/limits.conf, or LimitNOFILE= of the systemd unit"
		switch {
		case files.Max < leastFiles:
			d.add("open files", healthFail, remedy, "at most %s", limitText(files.Max))
		case files.Max < goodFiles:
			d.add("open files", healthWarn, remedy, "at most %s, which a few hundred workers or sidecars use up", limitText(files.Max))
		default:
			d.ok("open files", "at most %s", limitText(files.Max))
		}
	}
	if sizes, ok := d.limit("file size", unix.RLIMIT_FSIZE); ok {
		const remedy = "lift it: ulimit -f unlimited, or LimitFSIZE=infinity of the systemd unit; a program that passes it is ended by the kernel"
		switch {
		case sizes.Cur < leastSize:
			d.add("file size", healthFail, remedy, "a file may have at most %s bytes, less than an empty store", limitText(sizes.Cur))
		case sizes.Cur != unix.RLIM_INFINITY:
			d.add("file size", healthWarn, remedy, "a file may have at most %s bytes; store and objects grow beyond", limitText(sizes.Cur))
		default:
			d.ok("file size", "unlimited")
		}
	}
	if cores, ok := d.limit("core files", unix.RLIMIT_CORE); ok {
		if cores.Cur == 0 {
			d.ok("core files", "off")
		} else {
			d.add("core files", healthNote, "turn them off where keys matter: ulimit -c 0", "up to %s bytes; the core of a coordinator or worker holds its keys. Sidecars write none", limitText(cores.Cur))
		}
	}
}

func (d *doctor) limit(name string, what int) (unix.Rlimit, bool) {
	var l unix.Rlimit
	if err := unix.Getrlimit(what, &l); err != nil {
		d.add(name, healthWarn, "see what keeps this program from asking the kernel, such as a seccomp filter", "the limit could not be read: %v", err)
		return l, false
	}
	return l, true
}

func limitText(n uint64) string {
	if n == unix.RLIM_INFINITY {
		return "unlimited"
	}
	return fmt.Sprint(n)
}

// Thresholds of the clock.
const (
	clockStep = 250 * time.Millisecond // further apart than a disciplined clock gets in seconds
	// firstYear is before every release of these programs: an earlier clock is wrong.
	firstYear = 2025
)

// clock compares wall and monotonic time since began, and asks the kernel whether
// something keeps the clock right.
func (d *doctor) clock(began time.Time) {
	const remedy = "set the clock and keep it right: timedatectl set-ntp true, or run chronyd; workers and certificates depend on it"
	ended := time.Now()
	drift := ended.Round(0).Sub(began.Round(0)) - ended.Sub(began)
	synchronized, known := clockSynchronized()
	now := d.now.UTC().Format(time.RFC3339)
	switch {
	case d.now.Year() < firstYear:
		d.add("clock", healthFail, remedy, "it says %s, before these programs were made", now)
	case drift.Abs() > clockStep:
		d.add("clock", healthWarn, remedy, "wall time moved %v against monotonic time within %v: something sets it in steps", drift.Round(time.Millisecond), ended.Sub(began).Round(time.Millisecond))
	case !known:
		d.ok("clock", "%s; whether it is synchronized cannot be asked here", now)
	case !synchronized:
		d.add("clock", healthNote, "let something keep it right where hosts are several: timedatectl set-ntp true, or chronyd", "%s, steady; the kernel says that nothing synchronizes it", now)
	default:
		d.ok("clock", "%s, steady and synchronized", now)
	}
}
