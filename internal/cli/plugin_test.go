package cli

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// plugin runs a command of the noun plugin in this process; the sidecar launcher is
// this test binary.
func plugin(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	code = Operator(t.Context(), append([]string{"plugin"}, args...), strings.NewReader(stdin), &out, &errOut)
	return code, out.String(), errOut.String()
}

func TestPluginOfEveryLanguage(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for lang, tc := range map[string]struct {
		build                   []string
		method, payload, result string
	}{
		"python": {nil, "score", `{"completion": "so it is 4", "answer": "4"}`, "1"},
		"c":      {[]string{"make"}, "echo", "hi", "hi"},
		"rust":   {[]string{"make"}, "echo", "hi", "hi"},
		"go":     {[]string{"go", "build", "-o", "mine", "main.go"}, "echo", "hi", "hi"},
	} {
		t.Run(lang, func(t *testing.T) {
			t.Parallel() // most of it is waiting for compilers
			dir := filepath.Join(t.TempDir(), "mine")
			if code, _, stderr := plugin(t, "", "new", "--lang", lang, "--dir", dir, "mine"); code != 0 {
				t.Fatal(stderr)
			}
			if lang == "rust" {
				if _, err := exec.LookPath("rustc"); err != nil {
					t.Skip("SKIPPED: rustc is not on PATH, the Rust template is not tried")
				}
			}
			if tc.build != nil {
				cmd := exec.Command(tc.build[0], tc.build[1:]...)
				cmd.Dir = dir
				if lang == "go" { // the module is this one, not a published version
					cmd = exec.Command("go", "build", "-o", filepath.Join(dir, "mine"), filepath.Join(dir, "main.go"))
					cmd.Dir = root
				}
				if out, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			code, stdout, stderr := plugin(t, "", "check", "--json", dir+"/")
			var report pluginReport
			if err := json.Unmarshal([]byte(stdout), &report); code != 0 || err != nil || report.Plugin != "mine-0.1.0" || report.StartMS <= 0 {
				t.Fatalf("check: %d, %s, %s", code, stdout, stderr)
			}
			if code, stdout, stderr = plugin(t, tc.payload, "call", dir+"/", tc.method); code != 0 || stdout != tc.result {
				t.Errorf("call: %d, %q, %s", code, stdout, stderr)
			}
			if code, _, stderr = plugin(t, "", "call", dir+"/", "absent"); code != ExitFailure || !strings.Contains(stderr, "absent") && !strings.Contains(stderr, "only") {
				t.Errorf("unknown method: %d, %s", code, stderr)
			}
		})
	}
}

func TestPluginMistakes(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "rollout-plugin.toml")
	if err := os.WriteFile(broken, []byte("name = \"p\"\nversoin = \"1\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		args []string
		code int
		text string
	}{
		"broken manifest": {[]string{"check", broken}, ExitUsage, broken + ":2: versoin: is not a key of a manifest; did you mean version"},
		"absent":          {[]string{"check", "no-such-plugin"}, ExitFailure, "no plugin named"},
		"bad config":      {[]string{"call", broken, "m", "--config", "[1]"}, ExitUsage, ""},
		"language":        {[]string{"new", "--lang", "cobol", "x"}, ExitUsage, "cobol"},
		"name":            {[]string{"new", "Not A Name"}, ExitUsage, "plugin name"},
		"directory":       {[]string{"new", "--dir", dir, "x"}, ExitFailure, "is there already"},
		"arguments":       {[]string{"call", "x"}, ExitUsage, "usage"},
	} {
		if code, _, stderr := plugin(t, "", tc.args...); code != tc.code || !strings.Contains(stderr, tc.text) {
			t.Errorf("%s: exit %d, %q", name, code, stderr)
		}
	}
}

// TestPluginHeader keeps the header of the C template the one that is documented.
func TestPluginHeader(t *testing.T) {
	want, err := os.ReadFile("../../include/rollout_plugin.h")
	if err != nil {
		t.Fatal(err)
	}
	got, err := pluginTemplates.ReadFile("plugintemplates/c/rollout_plugin.h.txt")
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("internal/cli/plugintemplates/c/rollout_plugin.h.txt differs from include/rollout_plugin.h; copy it: %v", err)
	}
}
