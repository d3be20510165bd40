package lint

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// maxLines is the length above which a hand-written file is split by verb. The
// aim is 300; the slack is for a table or a long comment.
const maxLines = 450

// maxMain is the length of a program's main.go: signals, streams and one call.
const maxMain = 40

func checkLength(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.GoFiles() {
		lines := strings.Count(string(f.Data), "\n")
		switch {
		case f.Test:
		case strings.HasPrefix(f.Path, "cmd/") && lines > maxMain:
			found = append(found, Finding{f.Path, 0, fmt.Sprintf("a main has %d lines, more than %d", lines, maxMain),
				"move what it does to internal/cli, where tests reach it"})
		case lines > maxLines:
			found = append(found, Finding{f.Path, 0, fmt.Sprintf("the file has %d lines, more than %d", lines, maxLines),
				"split it by verb or by theme"})
		}
	}
	return found
}

// checkDirectories wants one line in CONTRIBUTING.md for each directory of the root.
func checkDirectories(t *Tree) []Finding {
	const guide = "CONTRIBUTING.md"
	doc := t.File(guide)
	if doc == nil {
		return []Finding{{guide, 0, "the guide is missing", "write it: one line for each directory of the root"}}
	}
	var found []Finding
	var roots []string
	for _, f := range t.Files {
		root, _, below := strings.Cut(f.Path, "/")
		if !below {
			if strings.HasSuffix(f.Path, ".go") {
				found = append(found, Finding{f.Path, 0, "a Go file lies in the root", "move it to the package it belongs to"})
			}
			continue
		}
		if !slices.Contains(roots, root) {
			roots = append(roots, root)
		}
	}
	for _, root := range roots {
		if !strings.Contains(string(doc.Data), "`"+root+"/`") {
			found = append(found, Finding{guide, 0, fmt.Sprintf("the directory %s/ has no line", root),
				fmt.Sprintf("say in one line what lives in `%s/`", root)})
		}
	}
	return found
}

// requirement matches a direct requirement of go.mod.
var requirement = regexp.MustCompile(`(?m)^(?:require )?\t?([a-z0-9.\-]+\.[a-z]+/\S+) v\S+$`)

// checkNotice wants a line in NOTICE for each direct requirement, and no replace
// line in go.mod, which would break `go install` of the programs.
func checkNotice(t *Tree) []Finding {
	mod, notice := t.File("go.mod"), t.File("NOTICE")
	if mod == nil || notice == nil {
		return []Finding{{"NOTICE", 0, "go.mod or NOTICE is missing", "list each direct requirement with its licence in NOTICE"}}
	}
	var found []Finding
	told := strings.Fields(string(notice.Data))
	for _, m := range requirement.FindAllStringSubmatch(string(mod.Data), -1) {
		if !slices.Contains(told, m[1]) {
			found = append(found, Finding{"NOTICE", 0, m[1] + " is required by go.mod but not told", "add it with its licence"})
		}
	}
	for i, line := range mod.Lines() {
		if strings.HasPrefix(line, "replace ") || strings.HasPrefix(line, "exclude ") {
			found = append(found, Finding{"go.mod", i + 1, "the line breaks go install of the programs", "put a patched module into a nested module"})
		}
	}
	return found
}
