package lint

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestHouse applies every rule to the repository.
func TestHouse(t *testing.T) {
	tree, err := Load(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	if tree.File("go.mod") == nil || tree.File("internal/lint/lint_test.go") == nil {
		t.Fatal("the tree lacks go.mod or this file: Load leaves too much out")
	}
	for _, rule := range Rules() {
		t.Run(rule.Name, func(t *testing.T) {
			for _, finding := range rule.Run(tree) {
				t.Errorf("%s\n\t(%s)", finding, rule.Why)
			}
		})
	}
}

// TestRulesCanFail applies each rule to its fixtures. A fixture is a small tree
// in one file of testdata named RULE or RULE-CASE: a head of "want PATH[:LINE]
// TEXT" lines, then each file behind a line "-- path --". The rule must find
// exactly what the head says, TEXT being a part of the finding.
func TestRulesCanFail(t *testing.T) {
	for _, rule := range Rules() {
		t.Run(rule.Name, func(t *testing.T) {
			names, err := filepath.Glob(filepath.Join("testdata", rule.Name+"*.txt"))
			if err != nil {
				t.Fatal(err)
			}
			failing := 0
			for _, name := range names {
				base := strings.TrimSuffix(filepath.Base(name), ".txt")
				if base != rule.Name && !strings.HasPrefix(base, rule.Name+"-") {
					continue
				}
				tree, wants := readFixture(t, name)
				compare(t, name, rule.Run(tree), wants)
				failing += len(wants)
			}
			if failing == 0 {
				t.Errorf("no fixture makes the rule fail; add testdata/%s.txt", rule.Name)
			}
		})
	}
}

// TestCleanTree holds a tree that every rule accepts.
func TestCleanTree(t *testing.T) {
	tree, _ := readFixture(t, filepath.Join("testdata", "clean.txt"))
	for _, rule := range Rules() {
		for _, finding := range rule.Run(tree) {
			t.Errorf("%s: %s", rule.Name, finding)
		}
	}
}

func compare(t *testing.T, fixture string, found []Finding, wants []string) {
	t.Helper()
	for _, finding := range found {
		text := finding.String()
		i := slices.IndexFunc(wants, func(want string) bool {
			place, part, _ := strings.Cut(want, " ")
			place = strings.TrimSuffix(place, ":")
			return strings.HasPrefix(text, place+": ") && strings.Contains(text, part)
		})
		if i < 0 {
			t.Errorf("%s: not expected: %s", fixture, text)
			continue
		}
		wants = slices.Delete(wants, i, i+1)
		if finding.Fix == "" {
			t.Errorf("%s: the finding names no fix: %s", fixture, text)
		}
	}
	for _, want := range wants {
		t.Errorf("%s: not found: %s", fixture, want)
	}
}

// readFixture parses a fixture. In Go files of a fixture "package" is written as
// it stands; in the head an empty line or one starting with # is a comment.
func readFixture(t *testing.T, name string) (*Tree, []string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	tree := newTree()
	var wants []string
	file, content := "", ""
	flush := func() {
		if file != "" {
			tree.add(file, []byte(content))
		}
		content = ""
	}
	for line := range strings.Lines(string(data)) {
		trimmed := strings.TrimSpace(line)
		if inner, ok := strings.CutPrefix(trimmed, "-- "); ok && strings.HasSuffix(inner, " --") {
			flush()
			file = strings.TrimSuffix(inner, " --")
			continue
		}
		if file != "" {
			content += line
			continue
		}
		if want, ok := strings.CutPrefix(trimmed, "want "); ok {
			wants = append(wants, want)
		}
	}
	flush()
	return tree, wants
}

func TestArrowsAreWellFormed(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range arrows {
		if a.why == "" {
			t.Errorf("the arrow of %s gives no reason", a.dir)
		}
		if seen[a.dir] {
			t.Errorf("%s has two lines", a.dir)
		}
		seen[a.dir] = true
	}
	for dir, want := range map[string]string{
		"pkg/core":                 "pkg/core",
		"pkg/core/coretest":        "pkg/core/coretest/...",
		"pkg/core/coretest/memory": "pkg/core/coretest/...",
		"pkg/core/other":           "pkg/core/...",
		"pkg/corelike":             "",
		"cmd/worker":               "cmd/...",
	} {
		got := ""
		if a := arrowOf(dir); a != nil {
			got = a.dir
		}
		if got != want {
			t.Errorf("arrowOf(%q) = %q, want %q", dir, got, want)
		}
	}
}
