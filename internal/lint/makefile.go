package lint

import (
	"fmt"
	"regexp"
	"strings"
)

// target is one rule of the Makefile.
type target struct {
	name string // may hold one %, as in chaos-r%
	line int
	help string // the text after ##
}

// matches reports whether `make name` runs the target, and what % stands for.
func (g target) matches(name string) (stem string, ok bool) {
	prefix, suffix, pattern := strings.Cut(g.name, "%")
	if !pattern {
		return "", name == g.name
	}
	rest, ok := strings.CutPrefix(name, prefix)
	if !ok || !strings.HasSuffix(rest, suffix) || len(rest) == len(suffix) {
		return "", false
	}
	return strings.TrimSuffix(rest, suffix), true
}

var targetLine = regexp.MustCompile(`^([a-zA-Z][\w%-]*):([^=].*|)$`)

// targets reads the Makefile's rules. FORCE, the name that makes pattern rules
// run always, is not one of them.
func targets(t *Tree) []target {
	f := t.File("Makefile")
	if f == nil {
		return nil
	}
	var all []target
	for i, line := range f.Lines() {
		m := targetLine.FindStringSubmatch(line)
		if m == nil || m[1] == "FORCE" {
			continue
		}
		_, help, _ := strings.Cut(m[2], "## ")
		all = append(all, target{m[1], i + 1, help})
	}
	return all
}

// part matches a script or a package directory that a recipe starts.
var part = regexp.MustCompile(`(?:^|[\s@;(])((?:scripts|\.ci)/[\w.-]+|\./(?:internal|cmd|examples)(?:/[\w-]+)*)`)

func checkMakefile(t *Tree) []Finding {
	f := t.File("Makefile")
	if f == nil {
		return []Finding{{"Makefile", 0, "the file is missing", "write it, with make help printing its ## comments"}}
	}
	var found []Finding
	for _, g := range targets(t) {
		if g.help == "" {
			found = append(found, Finding{f.Path, g.line, "target " + g.name + " has no ## comment", "say in one line what it does, for make help"})
		}
	}
	scripts := []*File{f}
	for _, other := range t.Files {
		if strings.HasPrefix(other.Path, "scripts/") && strings.HasSuffix(other.Path, ".sh") || other.Path == ".ci/run" {
			scripts = append(scripts, other)
		}
	}
	for _, script := range scripts {
		for i, line := range script.Lines() {
			if strings.HasPrefix(strings.TrimSpace(line), "#") {
				continue
			}
			for _, m := range part.FindAllStringSubmatch(line, -1) {
				name := strings.TrimPrefix(m[1], "./")
				if t.File(name) == nil && !t.HasDir(name) {
					found = append(found, Finding{script.Path, i + 1, fmt.Sprintf("%s is started but does not exist", m[1]),
						"add the part, or remove the target until it works"})
				}
			}
		}
	}
	return found
}
