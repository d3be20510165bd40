package cloudlocal

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
)

var rewrite = flag.Bool("rewrite", false, "write the inventories of testdata/machines anew")

// parseTree reads a recorded tree: each file behind a line "-- its/name --".
func parseTree(text string) fstest.MapFS {
	tree := fstest.MapFS{}
	var name string
	for line := range strings.Lines(text) {
		if s, ok := strings.CutPrefix(line, "-- "); ok && strings.HasSuffix(s, " --\n") {
			name = strings.TrimSuffix(s, " --\n")
			tree[name] = &fstest.MapFile{}
			continue
		}
		if f := tree[name]; f != nil {
			f.Data = append(f.Data, line...)
		}
	}
	return tree
}

// recorded returns the machine of a recorded tree.
func recorded(root fs.FS) *Machine {
	m := NewMachine(MachineConfig{DataDir: "/data/here", Root: root, GPUs: func() ([]core.GPUInfo, string, []string) { return nil, "none in a recording", nil }})
	m.disk = func(dir string) (int64, int64, error) {
		if dir != "/" {
			return 0, 0, &fs.PathError{Op: "open", Path: dir, Err: fs.ErrNotExist}
		}
		return 100 << 30, 60 << 30, nil
	}
	return m
}

func TestRecordedMachines(t *testing.T) {
	names, err := filepath.Glob("testdata/machines/*.txt")
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		inv, err := recorded(parseTree(string(text))).Inventory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		inv.Arch = "" // that of the machine the test runs on
		got, err := json.MarshalIndent(inv, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden := strings.TrimSuffix(name, ".txt") + ".json"
		if *rewrite {
			if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want, err := os.ReadFile(golden)
		if err != nil || strings.TrimSpace(string(want)) != string(got) {
			t.Errorf("%s: %v, run the test with -rewrite and look at the difference; got\n%s", golden, err, got)
		}
	}
}

func TestRecordedMachinesKeepTheContract(t *testing.T) {
	for _, name := range []string{"v1-docker", "v2-pod", "nothing"} {
		text, err := os.ReadFile("testdata/machines/" + name + ".txt")
		if err != nil {
			t.Fatal(err)
		}
		coretest.RunComputeHint(t, func(t *testing.T) *coretest.ComputeHintFixture {
			return &coretest.ComputeHintFixture{Hint: recorded(parseTree(string(text)))}
		}, coretest.ComputeHintOptions{OtherMachine: true})
	}
}

func TestFSType(t *testing.T) {
	text, err := os.ReadFile("testdata/machines/v2-slice.txt")
	if err != nil {
		t.Fatal(err)
	}
	mounts := parseMounts(string(parseTree(string(text))["proc/self/mountinfo"].Data))
	for dir, want := range map[string]string{"/": "btrfs", "/srv/me/data": "btrfs", "/srvs": "btrfs", "/mnt/with space/x": "nfs4", "/sys/fs/cgroup": "cgroup2"} {
		if got := fsTypeOf(mounts, dir); got != want {
			t.Errorf("%s: %q, want %q", dir, got, want)
		}
	}
}

// FuzzMachine puts anything into the files that are read and wants sane numbers.
func FuzzMachine(f *testing.F) {
	names, err := filepath.Glob("testdata/machines/*.txt")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add("-- proc/self/cgroup --\n0::/../..\n1:cpu:a/b\n-- proc/self/mountinfo --\n1 2 3:4 /x/ /y/ rw - cgroup2 c rw\n1 2 3 / / rw - cgroup c cpu\n-- y/cpu.max --\n-5 0\n-- cpu.cfs_quota_us --\n9223372036854775807\n")
	f.Add("-- sys/devices/system/cpu/online --\n0-2147483647,5\n-- proc/loadavg --\nNaN\n-- proc/meminfo --\nMemTotal: -5 kB\n")
	f.Fuzz(func(t *testing.T, text string) {
		inv := recorded(parseTree(text)).read()
		if c := inv.CPU; c.Machine.Value < 0 || c.UsableMilli.Value < 0 || c.LoadAvgCentis.Value < 0 || c.FrequencyMHz.Value < 0 ||
			c.Machine.Value > 0 && c.UsableMilli.Value > 1000*c.Machine.Value {
			t.Errorf("cpu %+v", c)
		}
		if m := inv.Memory; m.UsableMiB.Value < 0 || m.AvailableMiB.Value < 0 || m.MachineMiB.Value > 0 && m.UsableMiB.Value > m.MachineMiB.Value {
			t.Errorf("memory %+v", m)
		}
	})
}

// TestInventoryNotesDiskFailure has a disk that cannot be asked.
func TestInventoryNotesDiskFailure(t *testing.T) {
	m := recorded(fstest.MapFS{})
	m.disk = func(string) (int64, int64, error) { return 0, 0, errors.New("the disk is away") }
	inv, err := m.Inventory(t.Context())
	if err != nil || !strings.Contains(strings.Join(inv.Notes, "\n"), "the disk is away") {
		t.Errorf("%v, %v", inv.Notes, err)
	}
}
