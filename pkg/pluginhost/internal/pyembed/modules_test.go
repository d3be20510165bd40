//go:build cgo && linux

package pyembed

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestEqualModuleNamesDoNotMix(t *testing.T) {
	a, b := start(t, spec(t, "twin_a", "twin")), start(t, spec(t, "twin_b", "twin"))
	for range 2 {
		if got := mustCall(t, a, "x", ""); got != "helper of twin_a in twin_a" {
			t.Errorf("twin_a: %q", got)
		}
		if got := mustCall(t, b, "x", ""); got != "helper of twin_b in twin_b" {
			t.Errorf("twin_b: %q", got)
		}
		if got := mustCall(t, b, "lazy", ""); got != "lazy of twin_b" {
			t.Errorf("twin_b imports late: %q", got)
		}
	}
	if got := mustCall(t, start(t, spec(t, "habits", "habits")), "helper", ""); got != "helper of habits" {
		t.Errorf("habits: %q", got)
	}
}

func TestInstancesOfOneDigestShareModules(t *testing.T) {
	s := spec(t, "habits", "habits")
	a, b := start(t, s), start(t, s)
	mustCall(t, a, "echo", "")
	if got := mustCall(t, b, "calls", ""); got != "2" {
		t.Errorf("the second instance counts %s calls, want 2", got)
	}
	s.Plugin += "/other"
	if got := mustCall(t, start(t, s), "calls", ""); got != "1" {
		t.Errorf("another plugin counts %s calls, want 1", got)
	}
}

// writeVersion writes a plugin that answers with a version kept in a second module.
func writeVersion(t *testing.T, dir, version string) {
	t.Helper()
	files := map[string]string{
		"reloads.py":  "from parts import inner\nclass P:\n    def call(self, method, payload):\n        return inner.VERSION + payload\ndef create_plugin():\n    return P()\n",
		"parts.py":    "",
		"_pack/x.txt": "",
	}
	delete(files, "parts.py")
	files["parts/__init__.py"] = ""
	files["parts/inner.py"] = "VERSION = b'" + version + "'\n"
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReloadReadsChangedModules(t *testing.T) {
	dir := t.TempDir()
	s := Spec{Plugin: t.Name(), Dir: dir, Module: "reloads", Factory: "create_plugin", Config: []byte("{}")}
	writeVersion(t, dir, "v0")
	s.Digest = "0"
	old := start(t, s)
	for n := 1; n <= 20; n++ {
		version := fmt.Sprintf("v%d", n%10)
		writeVersion(t, dir, version)
		s.Digest, s.Fresh = version, true
		next := start(t, s)
		if got := mustCall(t, next, "x", "!"); got != version+"!" {
			t.Fatalf("reload %d answers %q, want %q", n, got, version+"!")
		}
		if n == 1 {
			if got := mustCall(t, old, "x", "!"); got != "v0!" {
				t.Errorf("the old instance answers %q", got)
			}
		}
		stop(t, next)
	}
}

func TestFailedReloadKeepsTheOld(t *testing.T) {
	dir := t.TempDir()
	s := Spec{Plugin: t.Name(), Digest: "0", Dir: dir, Module: "reloads", Factory: "create_plugin", Config: []byte("{}")}
	writeVersion(t, dir, "v0")
	old := start(t, s)
	if err := os.WriteFile(filepath.Join(dir, "parts", "inner.py"), []byte("VERSION = (\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Digest, s.Fresh = "1", true
	if _, err := interpreter(t).Start(t.Context(), s); !core.IsCode(err, core.CodePluginError) || !strings.Contains(err.Error(), "SyntaxError") {
		t.Errorf("reload of broken code: %v", err)
	}
	if got := mustCall(t, old, "x", "!"); got != "v0!" {
		t.Errorf("the old instance answers %q", got)
	}
	s.Digest, s.Fresh = "0", false
	if got := mustCall(t, start(t, s), "x", "!"); got != "v0!" {
		t.Errorf("another instance of the old code answers %q", got)
	}
}

func TestModulesAreFoundThroughPythonPath(t *testing.T) {
	in := interpreter(t)
	place := t.TempDir()
	writeVersion(t, place, "vp")
	s := Spec{Plugin: t.Name(), Digest: "0", Dir: t.TempDir(), Module: "reloads", Factory: "create_plugin", Config: []byte("{}")}
	if _, err := in.Start(t.Context(), s); err == nil {
		t.Fatal("the module was found before its place was on the path")
	}
	// The worker's PYTHONPATH is on sys.path from the start; here a site directory stands for it.
	i, err := (&Interpreter{lib: Library{Site: []string{place}}}).Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if got := mustCall(t, i, "x", "!"); got != "vp!" {
		t.Errorf("answer = %q", got)
	}
	stop(t, i)
}

func TestConcurrentStarts(t *testing.T) {
	in := interpreter(t)
	var starts sync.WaitGroup
	for n := range 8 {
		s := spec(t, []string{"twin_a", "twin_b"}[n%2], "twin")
		s.Plugin = fmt.Sprintf("%s/%d", t.Name(), n)
		starts.Go(func() {
			i, err := in.Start(t.Context(), s)
			if err != nil {
				t.Error(err)
				return
			}
			if got := mustCall(t, i, "x", ""); !strings.HasSuffix(got, filepath.Base(s.Dir)) || !strings.HasPrefix(got, "helper of "+filepath.Base(s.Dir)) {
				t.Errorf("%s answers %q", s.Dir, got)
			}
			stop(t, i)
		})
	}
	starts.Wait()
}
