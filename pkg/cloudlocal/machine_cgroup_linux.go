package cloudlocal

import (
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// mount is a line of /proc/self/mountinfo.
type mount struct {
	root   string   // directory of the file system that is mounted
	point  string   // where
	fsType string   // such as ext4, cgroup or cgroup2
	super  []string // options of the file system: for cgroup its controllers
}

func parseMounts(text string) (out []mount) {
	for line := range strings.Lines(text) {
		left, right, ok := strings.Cut(strings.TrimSpace(line), " - ")
		a, b := strings.Fields(left), strings.Fields(right)
		if !ok || len(a) < 6 || len(b) < 3 {
			continue
		}
		out = append(out, mount{root: unescape(a[3]), point: unescape(a[4]), fsType: b[0], super: strings.Split(b[2], ",")})
	}
	return out
}

// unescape resolves the octal escapes of space, tab, line end and backslash.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// fsTypeOf returns the type of the file system that a directory lies in: the last
// mount on the longest way to it.
func fsTypeOf(mounts []mount, dir string) (fsType string) {
	longest := -1
	for _, m := range mounts {
		if below(dir, m.point) && len(m.point) >= longest {
			longest, fsType = len(m.point), m.fsType
		}
	}
	return fsType
}

func below(dir, top string) bool {
	return dir == top || top == "/" || strings.HasPrefix(dir, top+"/")
}

// controlGroup is a line of /proc/self/cgroup.
type controlGroup struct {
	controllers []string // nil for version 2
	path        string
}

func parseGroups(text string) (out []controlGroup) {
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		g := controlGroup{path: path.Clean("/" + parts[2])}
		if parts[1] != "" {
			g.controllers = strings.Split(parts[1], ",")
		}
		out = append(out, g)
	}
	return out
}

// groupDirs returns the directories, innermost first, of the groups that limit this
// process by a controller, and the version of the tree they lie in; 0 when there is
// none. A controller lies in one tree only; version 1 is looked at first because a
// machine with both mounts version 2 without it.
func (p *proc) groupDirs(controller string) (dirs []string, version int) {
	for _, g := range p.groups {
		if slices.Contains(g.controllers, controller) {
			for _, m := range p.mounts {
				if m.fsType == "cgroup" && slices.Contains(m.super, controller) {
					return levels(m, g.path), 1
				}
			}
		}
	}
	for _, g := range p.groups {
		if g.controllers == nil {
			for _, m := range p.mounts {
				if m.fsType == "cgroup2" {
					return levels(m, g.path), 2
				}
			}
		}
	}
	return nil, 0
}

// levels lists the directories from a group up to the mount. In a container the
// mount may begin at the group itself, or at one that the group's path, told from
// outside, does not lead to; then only the mount's own directory can be seen.
func levels(m mount, group string) (dirs []string) {
	rel := "/"
	if below(group, m.root) {
		rel = path.Clean("/" + strings.TrimPrefix(group, m.root))
	}
	for {
		dirs = append(dirs, strings.TrimPrefix(path.Join(m.point, rel), "/"))
		if rel == "/" {
			return dirs
		}
		rel = path.Dir(rel)
	}
}

// cpuQuota returns the narrowest CPU quota on the way to the root.
func (p *proc) cpuQuota() (q core.Quantity) {
	dirs, version := p.groupDirs("cpu")
	for _, dir := range dirs {
		quota, period, ok := int64(0), int64(0), false
		source := "cgroup v2 cpu.max"
		if version == 2 {
			quota, period, ok = parseCPUMax(p.orEmpty(dir + "/cpu.max"))
		} else {
			source = "cgroup v1 cpu.cfs_quota_us"
			quota, ok = p.number(dir + "/cpu.cfs_quota_us")
			period, _ = p.number(dir + "/cpu.cfs_period_us")
		}
		if !ok || quota <= 0 || period <= 0 || quota > maxCPUs*period {
			continue
		}
		if milli := max(1, quota*1000/period); q.Source == "" || milli < q.Value {
			q = core.Quantity{Value: milli, Source: source}
		}
	}
	return q
}

func (p *proc) orEmpty(name string) string {
	s, err := p.try(name)
	if err != nil {
		return ""
	}
	return s
}

// parseCPUMax reads "50000 100000" or "max 100000".
func parseCPUMax(s string) (quota, period int64, ok bool) {
	a, b, _ := strings.Cut(s, " ")
	quota, err := strconv.ParseInt(a, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	period, err = strconv.ParseInt(strings.TrimSpace(b), 10, 64)
	return quota, period, err == nil && quota < 1<<50 && period < 1<<40
}

// memoryLimit returns the narrowest memory limit on the way to the root, and the
// least that any of these groups may still take: what the kernel would give back of
// its file cache counts as free.
func (p *proc) memoryLimit() (limit, left core.Quantity) {
	dirs, version := p.groupDirs("memory")
	limitFile, usedFile, cacheField := "memory.max", "memory.current", "inactive_file "
	if version == 1 {
		limitFile, usedFile, cacheField = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file "
	}
	source := "cgroup v" + strconv.Itoa(version) + " "
	for _, dir := range dirs {
		most, ok := p.number(dir + "/" + limitFile)
		if !ok || most <= 0 || most >= 1<<60 { // version 1 writes almost 2^63 for none
			continue
		}
		if mib := most >> 20; limit.Source == "" || mib < limit.Value {
			limit = core.Quantity{Value: mib, Source: source + limitFile}
		}
		used, ok := p.number(dir + "/" + usedFile)
		if !ok {
			continue
		}
		cache, err := strconv.ParseInt(field(p.orEmpty(dir+"/memory.stat"), cacheField), 10, 64)
		if err != nil {
			cache = 0
		}
		free := max(0, most-max(0, used-max(0, cache))) >> 20
		if left.Source == "" || free < left.Value {
			left = core.Quantity{Value: free, Source: source + limitFile + " less " + usedFile}
		}
	}
	return limit, left
}
