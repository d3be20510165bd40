package fuzzing

import (
	"context"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// target is one fuzz function.
type target struct{ module, pkg, name string }

var fuzzFunc = regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]*)\(`)

// targets finds every fuzz function of the tree.
func targets(t *testing.T) []target {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	var found []target
	err = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && name != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata" || entry.Name() == "bin" || entry.Name() == "data") {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(name, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for _, m := range fuzzFunc.FindAllSubmatch(source, -1) {
			dir := filepath.Dir(name)
			module := moduleOf(dir)
			rel, err := filepath.Rel(module, dir)
			if err != nil {
				return err
			}
			found = append(found, target{module, "./" + rel, string(m[1])})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// moduleOf is the directory of the module that dir belongs to.
func moduleOf(dir string) string {
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// TestR29FuzzTargets gives each fuzz target of the tree ROLLOUT_CHAOS_COUNT
// seconds. Without that there is nothing to do beyond finding them: their seeds run
// as tests of their packages.
func TestR29FuzzTargets(t *testing.T) {
	all := targets(t)
	if len(all) == 0 {
		t.Fatal("no fuzz target was found: the search is broken")
	}
	text := os.Getenv("ROLLOUT_CHAOS_COUNT")
	if text == "" {
		return
	}
	seconds, err := strconv.Atoi(text)
	if err != nil || seconds < 1 {
		t.Fatalf("ROLLOUT_CHAOS_COUNT=%q is not a number of seconds", text)
	}
	for _, target := range all {
		t.Run(target.pkg+"/"+target.name, func(t *testing.T) {
			// Building a package for fuzzing takes minutes on a small machine.
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second+10*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-fuzz=^"+target.name+"$",
				"-fuzztime="+text+"s", "-fuzzminimizetime=500x", target.pkg)
			cmd.Dir = target.module
			cmd.Env = append(os.Environ(), "GOMEMLIMIT=1GiB")
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			if m := lastProgress.FindAllSubmatch(out, -1); len(m) > 0 {
				t.Logf("%s inputs in %d s", m[len(m)-1][1], seconds)
			}
		})
	}
}

var lastProgress = regexp.MustCompile(`execs: (\d+)`)
