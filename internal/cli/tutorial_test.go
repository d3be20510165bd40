package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestTutorial runs every command of docs/first-plugin.md in an empty directory, with
// this test binary as the program rollout.
func TestTutorial(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "first-plugin.md"))
	if err != nil {
		t.Fatal(err)
	}
	script := "set -euo pipefail\n" + strings.Join(shellBlocks(string(page)), "\n")
	if strings.Count(script, "rollout plugin") < 5 {
		t.Fatalf("the page has too few commands:\n%s", script)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin, work := t.TempDir(), t.TempDir()
	wrapper := "#!/bin/sh\nexec env " + childEnv + "=rollout " + self + " \"$@\"\n"
	if err := os.WriteFile(filepath.Join(bin, "rollout"), []byte(wrapper), 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "bash", "-c", script)
	cmd.Dir = work
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"), "ROLLOUT_SDK="+filepath.Join(root, "python"))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, &stderr)
	}
	// Results come without a newline, so that the calls of the page print 1, 1 and 2
	// in a row, before the next report.
	if text := string(out); !strings.Contains(text, "112plugin ") {
		t.Errorf("the calls did not print what the page says:\n%s", text)
	}
}

// shellBlocks returns what stands in the fenced sh blocks of a page.
func shellBlocks(page string) []string {
	var blocks []string
	for i, part := range strings.Split(page, "```") {
		if body, ok := strings.CutPrefix(part, "sh\n"); ok && i%2 == 1 {
			blocks = append(blocks, body)
		}
	}
	return blocks
}
