package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/pkg/pluginhost"
)

// checkBlock holds a block to its language. A console block is typed by TestPages, and
// whatever a shell block or a sentence says to type is looked up by package lint.
func checkBlock(t *testing.T, b Block) error {
	text := strings.Join(b.Lines, "\n") + "\n"
	switch b.Lang {
	case "console", "setup":
		_, err := b.Steps()
		return err
	case "", "text", "mermaid":
		if line := typed(b.Lines); line != "" {
			return fmt.Errorf("%q is to be typed: mark the block console, and show what it prints", line)
		}
		return nil
	case "sh":
		for _, line := range b.Lines {
			word, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			if word != "" && word != "make" && word != "go" && !strings.HasPrefix(word, "ROLLOUT_") && !strings.HasPrefix(word, "#") {
				return fmt.Errorf("%q is typed by nobody: only the tree's own runs (make, go) stand in sh blocks, the rest in console blocks", line)
			}
		}
		return nil
	case "toml":
		return checkTOML(t, text)
	case "json":
		for _, line := range b.Lines {
			if !json.Valid([]byte(line)) {
				return fmt.Errorf("is no JSON: %s", line)
			}
		}
		return nil
	case "python":
		return feed(text, "python3", "-c", "import ast, sys; ast.parse(sys.stdin.read())")
	case "c":
		cc := os.Getenv("CC")
		if cc == "" {
			cc = "cc"
		}
		return feed(text, cc, "-Wall", "-Werror", "-fsyntax-only", "-I", root+"/include", "-x", "c", "-")
	case "go":
		return compiled(b.Lines)
	}
	return fmt.Errorf("nothing checks the language %q", b.Lang)
}

// typed returns a line that looks as if it were to be typed.
func typed(lines []string) string {
	for _, line := range lines {
		if prompt.MatchString(line) {
			return line
		}
		for _, program := range []string{"rollout ", "coordinator ", "worker ", "make ", "go test ", "go run "} {
			if rest, ok := strings.CutPrefix(line, program); ok && strings.Contains(rest, "--") && !strings.Contains(rest, "  ") {
				return line
			}
		}
	}
	return ""
}

func feed(text string, argv ...string) error {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", argv[0], err, out)
	}
	return nil
}

// library matches the shared library of a manifest, which must be there.
var library = regexp.MustCompile(`(?m)^path = "(.*\.so)"$`)

// checkTOML loads a block as what it is: a manifest, which says a mode, or a
// configuration.
func checkTOML(t *testing.T, text string) error {
	dir := t.TempDir()
	name := filepath.Join(dir, pluginhost.ManifestName)
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		return err
	}
	if strings.Contains(text, "mode = ") {
		if m := library.FindStringSubmatch(text); m != nil {
			if err := os.WriteFile(filepath.Join(dir, m[1]), nil, 0o600); err != nil {
				return err
			}
		}
		_, err := pluginhost.ReadManifest(name, func(string) (string, bool) { return "", false })
		return err
	}
	_, err := config.Load(config.Options{Files: []string{name}})
	return err
}

// compiled wants the lines of a block, in this order, in one Go file of the tree, which
// a build compiles.
func compiled(want []string) error {
	want = slices.DeleteFunc(slices.Clone(want), func(line string) bool { return code(line) == "" })
	found := false
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || found {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "bin" || d.Name() == "data") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		left := want
		for line := range strings.Lines(string(text)) {
			if len(left) > 0 && code(line) == code(left[0]) {
				left = left[1:]
			}
		}
		found = len(left) == 0
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("no Go file of the tree has these lines: add an example that is compiled\n%s", strings.Join(want, "\n"))
	}
	return err
}

// code is a line without its comment and the space around it.
func code(line string) string {
	line, _, _ = strings.Cut(line, "//")
	return strings.TrimSpace(line)
}

// TestBlocks holds every fenced block of the documentation to its language.
func TestBlocks(t *testing.T) {
	for _, page := range pages(t) {
		for _, b := range page.Blocks {
			if err := checkBlock(t, b); err != nil {
				t.Errorf("%s:%d: %v", page.Path, b.Line, err)
			}
		}
	}
}

func TestBlocksCanFail(t *testing.T) {
	for _, b := range []Block{
		{Lang: "toml", Lines: []string{"[transport]", `listen_adr = "x"`}},
		{Lang: "toml", Lines: []string{`name = "x"`, `mode = "sidecar"`, `colour = "red"`}},
		{Lang: "json", Lines: []string{`{"a": }`}},
		{Lang: "python", Lines: []string{"def f(:"}},
		{Lang: "c", Lines: []string{"int f(void) { return x; }"}},
		{Lang: "go", Lines: []string{"s, err := nobody.WroteThis(ctx)"}},
		{Lang: "sh", Lines: []string{"rollout status"}},
		{Lang: "", Lines: []string{"$ rollout status"}},
		{Lang: "text", Lines: []string{"rollout status --json"}},
		{Lang: "cobol"},
	} {
		if checkBlock(t, b) == nil {
			t.Errorf("a %q block of %q is accepted", b.Lang, b.Lines)
		}
	}
}
