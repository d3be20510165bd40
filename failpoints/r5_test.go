package failpoints

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestR5BoltFailpoints builds the crash harness of package storage against a
// bbolt with failpoints and runs it. ROLLOUT_CHAOS_COUNT is the rounds of each
// failpoint; without it there is one.
func TestR5BoltFailpoints(t *testing.T) {
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	modfile, points, err := Prepare(t.Context(), root, out)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"beforeSyncDataPages", "beforeSyncMetaPage", "beforeWriteMetaError", "lackOfDiskSpace", "resizeFileError"} {
		if !slices.Contains(points, want) {
			t.Errorf("bbolt has no failpoint %s any more; it has %s", want, strings.Join(points, ", "))
		}
	}
	harness := filepath.Join(out, "storage.test")
	if _, err := goCommand(t.Context(), root, "test", "-c", "-mod=mod", "-modfile="+modfile, "-tags=failpoints", "-o", harness, "./pkg/storage"); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), harness, "-test.run=^TestBoltFailpoints$", "-test.v")
	cmd.Dir = filepath.Join(root, "pkg", "storage")
	cmd.Env = append(os.Environ(), "GOFAIL_FAILPOINTS=")
	report, err := cmd.CombinedOutput()
	t.Logf("%s", report)
	if err != nil {
		t.Fatal(err)
	}
}
