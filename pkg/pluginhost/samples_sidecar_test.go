package pluginhost

import (
	"context"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// sidecarExample returns the directory of a sample below examples/plugins.
func sidecarExample(t testing.TB, name string) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("the runtime does not know where this source file is")
	}
	return filepath.Join(filepath.Dir(file), "..", "..", "examples", "plugins", name)
}

func TestSampleSidecars(t *testing.T) {
	h, _ := testHost(t, nil)
	for dir, call := range map[string][3]string{
		"python-sidecar":   {"score", `{"completion": "one two three four five six seven eight nine ten"}`, "0.500"},
		"original-sidecar": {"echo", "hello", `{"payload": "hello"}`},
	} {
		m, err := ReadManifest(sidecarExample(t, dir), nil)
		if err != nil {
			t.Fatal(err)
		}
		m.Runtime.StartTimeout = patience
		mustLoad(t, h, m)
		if got := mustCall(t, h, m.Name, call[0], call[1]); got != call[2] {
			t.Errorf("%s: %s = %q, want %q", dir, call[0], got, call[2])
		}
	}
	_, err := h.Call(context.Background(), "length-reward", "score", []byte("no JSON"))
	if !core.IsCode(err, core.CodePluginError) || !strings.Contains(err.Error(), "no sample") {
		t.Errorf("broken payload: %v", err)
	}
	if _, err = h.Call(context.Background(), "sample-sidecar", "echo", []byte{0xff}); !core.IsCode(err, core.CodePluginContract) {
		t.Errorf("payload that is not UTF-8: %v", err)
	}
}

// TestSampleOnEveryPython starts a sidecar on every interpreter of this machine.
func TestSampleOnEveryPython(t *testing.T) {
	dir := sidecarExample(t, "python-sidecar")
	for _, python := range pythonsHere(t) {
		h, _ := testHost(t, nil)
		m, err := ReadManifest(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		m.Runtime.Interpreter, m.Runtime.StartTimeout = python, patience
		info := mustLoad(t, h, m)
		if got := mustCall(t, h, m.Name, "echo", "x"); got != "x" {
			t.Errorf("%s: %q", python, got)
		}
		t.Logf("%s: ready after %v", python, info.Start)
	}
}

// pythonsHere returns every interpreter from 3.11 on that this machine has by a
// name of its own.
func pythonsHere(t testing.TB) []string {
	t.Helper()
	var found []string
	for _, name := range []string{"python3", "python3.11", "python3.12", "python3.13", "python3.14", "/usr/bin/python3"} {
		path, err := exec.LookPath(name)
		if err != nil || exec.Command(path, "-c", "import sys; assert sys.version_info >= (3, 11)").Run() != nil {
			continue
		}
		found = append(found, path)
	}
	return found
}
