package cloudlocal

import (
	"fmt"
	"io/fs"
	"math"
	"strconv"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// proc reads the files in which Linux describes the machine. What cannot be read
// becomes a note.
type proc struct {
	root   fs.FS
	notes  []string
	mounts []mount
	groups []controlGroup
}

func (m *Machine) readSystem(inv *core.Inventory) {
	p := &proc{root: m.cfg.Root}
	p.mounts = parseMounts(p.text("proc/self/mountinfo"))
	p.groups = parseGroups(p.text("proc/self/cgroup"))
	inv.Hostname = p.text("proc/sys/kernel/hostname")
	inv.Kernel = p.text("proc/sys/kernel/osrelease")
	inv.InstanceType = p.instanceType()
	p.cpu(&inv.CPU)
	p.memory(&inv.Memory)
	inv.Notes = append(inv.Notes, p.notes...)
}

func (m *Machine) fsType(dir string) string {
	p := &proc{root: m.cfg.Root}
	return fsTypeOf(parseMounts(p.text("proc/self/mountinfo")), dir)
}

// text returns a file without the space around it, and notes when it is not there.
func (p *proc) text(name string) string {
	s, err := p.try(name)
	if err != nil {
		p.notes = append(p.notes, strings.TrimPrefix(err.Error(), "open "))
	}
	return s
}

// try returns a file that need not be there.
func (p *proc) try(name string) (string, error) {
	b, err := fs.ReadFile(p.root, name)
	return strings.TrimSpace(string(b)), err
}

// number returns a file that holds one number and need not be there.
func (p *proc) number(name string) (int64, bool) {
	s, err := p.try(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil
}

// instanceType is the product name that clouds write into the firmware. Elsewhere
// it names a board or a laptop, which says nothing here.
func (p *proc) instanceType() string {
	vendor, err := p.try("sys/class/dmi/id/sys_vendor")
	if err != nil {
		return "" // virtual machines and ARM boards often have no such table
	}
	for _, cloud := range []string{"Amazon EC2", "Google", "Microsoft Corporation", "Alibaba Cloud", "DigitalOcean", "Hetzner", "OpenStack Foundation", "Tencent Cloud", "Scaleway", "Vultr", "OVHcloud"} {
		if vendor == cloud {
			return p.text("sys/class/dmi/id/product_name")
		}
	}
	return ""
}

func (p *proc) cpu(c *core.CPUInfo) {
	info := parseCPUInfo(p.text("proc/cpuinfo"))
	c.Model = info.model
	switch online, err := p.try("sys/devices/system/cpu/online"); {
	case err == nil && countRange(online) > 0:
		c.Machine = core.Quantity{Value: countRange(online), Source: "/sys/devices/system/cpu/online"}
	case info.count > 0:
		c.Machine = core.Quantity{Value: info.count, Source: "/proc/cpuinfo"}
	default:
		p.notes = append(p.notes, "cpu: nothing counts the processors")
	}
	c.UsableMilli = core.Quantity{Value: 1000 * c.Machine.Value, Source: c.Machine.Source}
	if n := countRange(field(p.text("proc/self/status"), "Cpus_allowed_list:")); n > 0 && (c.Machine.Value == 0 || n < c.Machine.Value) {
		c.UsableMilli = core.Quantity{Value: 1000 * n, Source: "/proc/self/status Cpus_allowed_list"}
	}
	if q := p.cpuQuota(); q.Source != "" && (c.UsableMilli.Value == 0 || q.Value < c.UsableMilli.Value) {
		c.UsableMilli = q
	}
	if nodes, err := p.try("sys/devices/system/node/online"); err == nil {
		if n := countRange(nodes); n > 0 {
			c.NUMANodes = core.Quantity{Value: n, Source: "/sys/devices/system/node/online"}
		}
	}
	switch khz, ok := p.number("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"); {
	case ok && khz > 0:
		c.FrequencyMHz = core.Quantity{Value: khz / 1000, Source: "/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"}
	case info.mhz > 0:
		c.FrequencyMHz = core.Quantity{Value: info.mhz, Source: "/proc/cpuinfo"}
	}
	one, _, _ := strings.Cut(p.text("proc/loadavg"), " ")
	if load, err := strconv.ParseFloat(one, 64); err == nil && load >= 0 && load < 1e9 {
		c.LoadAvgCentis = core.Quantity{Value: int64(math.Round(load * 100)), Source: "/proc/loadavg"}
	}
}

func (p *proc) memory(m *core.MemoryInfo) {
	text := p.text("proc/meminfo")
	total, available := kib(field(text, "MemTotal:")), kib(field(text, "MemAvailable:"))
	if total > 0 {
		m.MachineMiB = core.Quantity{Value: total >> 10, Source: "/proc/meminfo MemTotal"}
	}
	m.UsableMiB = m.MachineMiB
	if available > 0 {
		m.AvailableMiB = core.Quantity{Value: available >> 10, Source: "/proc/meminfo MemAvailable"}
	}
	limit, left := p.memoryLimit()
	if limit.Source != "" && (total == 0 || limit.Value < m.MachineMiB.Value) {
		m.UsableMiB = limit
	}
	if left.Source != "" && (available == 0 || left.Value < m.AvailableMiB.Value) {
		m.AvailableMiB = left
	}
}

// kib reads "123 kB".
func kib(s string) int64 {
	n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(s, "kB")), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// field returns what follows a name at the beginning of a line.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

// maxCPUs bounds what a list of numbers may claim.
const maxCPUs = 1 << 20

// countRange counts the members of a list such as "0-3,8,10-11"; 0 when it is none.
func countRange(s string) (n int64) {
	for part := range strings.SplitSeq(strings.TrimSpace(s), ",") {
		first, last, ranged := strings.Cut(part, "-")
		a, err := strconv.ParseUint(first, 10, 31)
		if err != nil {
			return 0
		}
		b := a
		if ranged {
			if b, err = strconv.ParseUint(last, 10, 31); err != nil || b < a {
				return 0
			}
		}
		if n += int64(b-a) + 1; n > maxCPUs {
			return 0
		}
	}
	return n
}

type cpuInfo struct {
	model string
	count int64
	mhz   int64
}

func parseCPUInfo(text string) (c cpuInfo) {
	var implementer, part string
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(key) {
		case "processor":
			c.count++
		case "model name":
			c.model = value
		case "CPU implementer":
			implementer = value
		case "CPU part":
			part = value
		case "cpu MHz":
			if f, err := strconv.ParseFloat(value, 64); err == nil && c.mhz == 0 && f > 0 && f < 1e6 {
				c.mhz = int64(math.Round(f))
			}
		}
	}
	if c.model == "" && part != "" { // ARM has numbers in place of names
		c.model = fmt.Sprintf("ARM implementer %s part %s", implementer, part)
	}
	return c
}
