package scripts

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// chaos runs scripts/chaos.sh in a tree with rows R7 and S1 in the root module,
// R7 also in a nested one, and R12, which must not be taken for R1.
func chaos(t *testing.T, args ...string) (output string, err error) {
	t.Helper()
	m := newMachine(t)
	row := func(dir, function string) {
		m.file(dir+"/a_test.go", "package a\n\nimport (\n\t\"os\"\n\t\"testing\"\n)\n\nfunc "+function+
			"(t *testing.T) { t.Log(\""+function+" ran\", os.Getenv(\"ROLLOUT_CHAOS_COUNT\")) }\n", 0o644)
	}
	row("pkg/a", "TestR7First")
	row("pkg/b", "TestR12Other")
	row("pkg/c", "TestS1Secret")
	m.file("nested/go.mod", "module example.com/nested\n\ngo 1.26.0\n", 0o644)
	row("nested", "TestR7Second")
	cmd := exec.CommandContext(t.Context(), "bash", append([]string{filepath.Join(m.root, "scripts/chaos.sh")}, args...)...)
	cmd.Env = append(os.Environ(), "GOFLAGS=")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestChaosRunsOneRowInEveryModule(t *testing.T) {
	out, err := chaos(t, "r7", "3")
	if err != nil {
		t.Error(err)
	}
	want(t, out, `TestR7First ran 3`, `TestR7Second ran 3`)
}

func TestChaosNamesTheRowsThatExist(t *testing.T) {
	out, err := chaos(t, "R1")
	if err == nil {
		t.Error("a row without a test passes")
	}
	want(t, out, `no test is named TestR1\.\.\.; rows with tests: R7 R12 S1`)
}

func TestChaosRunsEveryRowWithItsFullCount(t *testing.T) {
	out, err := chaos(t, "all")
	if err != nil {
		t.Error(err)
	}
	want(t, out, `TestR7First ran 1000`, `TestR7Second ran 1000`, `TestR12Other ran 100`, `TestS1Secret ran 100`, `every row passed: R7 R12 S1`)
}
