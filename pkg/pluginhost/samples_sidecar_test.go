package pluginhost

import (
	"context"
	"fmt"
	"os"
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

// TestSampleOnEveryPython starts sidecars on every interpreter of this machine: over
// frames, and over gRPC where it has grpcio. Where it has not, the error says so.
func TestSampleOnEveryPython(t *testing.T) {
	dir := sidecarExample(t, "python-sidecar")
	h, _ := testHost(t, nil)
	for i, python := range pythonsHere(t) {
		for _, protocol := range []core.SidecarProtocol{core.ProtocolFramed, core.ProtocolGRPC} {
			m, err := ReadManifest(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			m.Name = fmt.Sprintf("%s-%d-%s", m.Name, i, protocol)
			m.Runtime.Interpreter, m.Runtime.StartTimeout = python, patience
			m.Sidecar.Protocol = protocol
			if protocol == core.ProtocolGRPC && exec.Command(python, "-c", "import grpc").Run() != nil {
				_, err := h.Load(t.Context(), m)
				if !core.IsCode(err, core.CodePluginContract) && !core.IsCode(err, core.CodePluginCrashed) || !strings.Contains(err.Error(), "needs the package grpcio") {
					t.Errorf("%s without grpcio: %v", python, err)
				}
				t.Logf("%s has no grpcio, which is said", python)
				continue
			}
			info := mustLoad(t, h, m)
			if got := mustCall(t, h, m.Name, "echo", "x"); got != "x" {
				t.Errorf("%s: %q", python, got)
			}
			t.Logf("%s, %s: ready after %v", python, protocol, info.Start)
		}
	}
}

// pythonsHere returns every interpreter from 3.11 on that this machine has: those of
// the system, on PATH, and of version managers, each once.
func pythonsHere(t testing.TB) []string {
	t.Helper()
	candidates := []string{"python3", "python3.11", "python3.12", "python3.13", "python3.14", "/usr/bin/python3"}
	home, err := os.UserHomeDir()
	if err != nil {
		t.Log(err)
	}
	for _, pattern := range []string{"/usr/bin/python3.*", "/usr/local/bin/python3.*", "/opt/python*/bin/python3", home + "/.pyenv/versions/*/bin/python3"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		candidates = append(candidates, more...)
	}
	seen := make(map[string]bool)
	var found []string
	for _, name := range candidates {
		path, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		// A shim tells which one is behind it, or that none is chosen.
		out, err := exec.Command(path, "-c", "import os, sys; assert sys.version_info >= (3, 11); print(os.path.realpath(sys.executable))").Output()
		if real := strings.TrimSpace(string(out)); err == nil && !seen[real] {
			seen[real] = true
			found = append(found, path)
		}
	}
	return found
}

// TestShims names scripts in place of an interpreter, as version managers put them on
// PATH: one that leads to an interpreter is seen through, and one that has none to
// lead to is refused with what it said.
func TestShims(t *testing.T) {
	real, err := exec.LookPath("python3")
	if err != nil {
		t.Fatal(err)
	}
	dir := writeFiles(t, map[string]string{
		"leads.sh":   "#!/bin/sh\nexec '" + real + "' \"$@\"\n",
		"refuses.sh": "#!/bin/sh\necho \"pyenv: python3.12: command not found\" >&2\nexit 127\n",
		"lies.sh":    "#!/bin/sh\necho 3.12\n",
	})
	h, _ := testHost(t, nil)
	m := sampleManifest(t, "p")
	for script, text := range map[string]string{"refuses.sh": "pyenv: python3.12: command not found", "lies.sh": `it answered "3.12\n"`} {
		m.Runtime.Interpreter = filepath.Join(dir, script)
		if _, err := h.Load(t.Context(), m); !core.IsCode(err, core.CodeConfigInvalid) || !strings.Contains(err.Error(), text) || !strings.Contains(err.Error(), script) {
			t.Errorf("%s: %v", script, err)
		}
	}
	m.Runtime.Interpreter = filepath.Join(dir, "leads.sh")
	mustLoad(t, h, m)
	if got := mustCall(t, h, "p", "eval", "sys.executable"); got == m.Runtime.Interpreter {
		t.Errorf("the shim is taken for the interpreter: %s", got)
	}
}
