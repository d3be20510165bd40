package version

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
)

func TestGetNamesEveryPart(t *testing.T) {
	got := Get()
	if got.Version == "" || got.Commit == "" || got.Go != runtime.Version() {
		t.Fatalf("Get() = %+v, want every field filled and Go %s", got, runtime.Version())
	}
	if want := got.Version + " (commit " + got.Commit + ", " + got.Go + ")"; got.String() != want {
		t.Errorf("String() = %q, want %q", got, want)
	}
}

func TestFillKeepsTheStamp(t *testing.T) {
	build := &debug.BuildInfo{
		Main:     debug.Module{Version: "v9.9.9"},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "feed"}},
	}
	for _, test := range []struct{ name, version, commit, wantVersion, wantCommit string }{
		{"nothing stamped", "", "", "v9.9.9", "feed"},
		{"both stamped", "v1.0.0", "beef", "v1.0.0", "beef"},
	} {
		got := Info{Version: test.version, Commit: test.commit}
		got.fill(build)
		if got.Version != test.wantVersion || got.Commit != test.wantCommit {
			t.Errorf("%s: got %+v", test.name, got)
		}
	}
}

// The variable names that the Makefile stamps are part of its recipe: a renamed
// variable would be ignored by the linker without a word.
func TestMakefileStampsTheseVariables(t *testing.T) {
	makefile, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	const stamp = "github.com/rollout-substrate/rollout/internal/version"
	for _, want := range []string{"STAMP := " + stamp + "\n", "-X $(STAMP).version=", "-X $(STAMP).commit="} {
		if !strings.Contains(string(makefile), want) {
			t.Errorf("the Makefile lacks %q; keep it and this package's variables in step", want)
		}
	}

	dir := t.TempDir()
	program := filepath.Join(dir, "stamped.test")
	build := exec.Command("go", "test", "-c", "-vet=off", "-o", program,
		"-ldflags", "-X "+stamp+".version=v1.2.3 -X "+stamp+".commit=cafe", ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go test -c: %v\n%s", err, out)
	}
	show := exec.Command(program, "-test.run", "^TestShowStamp$", "-test.v")
	show.Env = append(os.Environ(), "VERSION_TEST_SHOW=1")
	out, err := show.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "v1.2.3 (commit cafe, ") {
		t.Errorf("stamped program says %q, %v", out, err)
	}
}

// TestShowStamp is the body of the program that TestMakefileStampsTheseVariables builds.
func TestShowStamp(t *testing.T) {
	if os.Getenv("VERSION_TEST_SHOW") != "" {
		t.Log(Get())
	}
}
