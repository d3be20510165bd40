package pluginhost

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// onPath is an environment with that PATH and nothing else.
func onPath(path string) func(string) (string, bool) {
	return func(name string) (string, bool) { return path, name == "PATH" }
}

func TestProbesOfPython(t *testing.T) {
	here, err := ProbeSidecarPython(t.Context(), os.LookupEnv)
	if err != nil || !filepath.IsAbs(here.Executable) {
		t.Errorf("this machine's: %+v, %v", here, err)
	}
	if _, err := ProbeSidecarPython(t.Context(), onPath(t.TempDir())); err == nil || !strings.Contains(err.Error(), "install Python 3.11") {
		t.Errorf("without one: %v", err)
	}
	if _, err := ProbeEmbeddedPython(t.Context(), onPath(t.TempDir())); err == nil || !strings.Contains(err.Error(), "no python3 is on PATH") {
		t.Errorf("without a library: %v", err)
	}
	old := writeFiles(t, map[string]string{"python3": "#!/bin/sh\necho '{\"executable\":\"/old/python3\",\"version\":[3,9],\"prefixes\":[]}'\n"})
	if err := os.Chmod(filepath.Join(old, "python3"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := ProbeSidecarPython(t.Context(), onPath(old)); err == nil || !strings.Contains(err.Error(), "/old/python3 is Python 3.9, and 3.11 is needed") {
		t.Errorf("an old one: %v", err)
	}
}

func TestProbeOfContainmentAgreesWithAPlugin(t *testing.T) {
	h, _ := testHost(t, nil)
	loaded := mustLoad(t, h, sampleManifest(t, "p")).Containment
	tmp := t.TempDir()
	t.Setenv("TMPDIR", tmp)
	probed, err := ProbeContainment(t.Context(), h.cfg.Launcher)
	if err != nil {
		t.Fatal(err)
	}
	held := strings.Join(probed.Enforced, "\n")
	for _, what := range loaded.Enforced {
		if !strings.Contains(held, what) {
			t.Errorf("the probe does not name %s: %v", what, probed)
		}
	}
	if left, err := os.ReadDir(tmp); err != nil || len(left) != 0 {
		t.Errorf("the probe left %v, %v", left, err)
	}
}
