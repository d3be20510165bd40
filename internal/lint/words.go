package lint

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
)

// pattern is a text that has no place in the tree. The expressions below are
// written so that this file does not match itself.
type pattern struct {
	re    *regexp.Regexp
	needs []string // lower-case words of which every match holds one
	fix   string
}

// expression is a regular expression and the needs of its pattern: looking for plain
// words first spares most files the expression, which is slow.
type expression struct {
	text  string
	needs []string
}

func need(text string, needs ...string) expression { return expression{text, needs} }

func compile(fix string, expressions ...expression) []pattern {
	var all []pattern
	for _, e := range expressions {
		all = append(all, pattern{regexp.MustCompile(e.text), e.needs, fix})
	}
	return all
}

// leftovers are words of work that is not finished, and of plans for it.
//
// A loop over a variable called now is not one of them.
func leftovers() []pattern {
	all := compile("finish it, or leave it out and say so in the docs",
		need(`\bTO`+`DO\b`, "to"+"do"), need(`\bFIX`+`ME\b`, "fix"+"me"), need(`\bX`+`XX\b`, "x"+"xx"), need(`\bHA`+`CK\b`, "ha"+"ck"),
		need(`(?im)\bfor`+` now(\s*$|[.,;:)]\s*$|[.,;)] | [a-z])`, "for"+" now"),
		need(`(?i)\bcoming`+` soon\b`, "coming"+" soon"), need(`(?i)\bnot yet`+` implemented\b`, "yet"+" implemented"))
	return append(all, compile("say what the code does and why; a plan's numbers mean nothing to a reader",
		need(`(?i)\b(phase|wave|milestone|sprint)`+` [0-9]`, "phase ", "wave ", "milestone ", "sprint "),
		need(`(?i)\bissue`+` #?[0-9]+\b`, "issue "), need(`(?i)\bplan`+` [0-9]+\b`, "plan "))...)
}

// places are hosts that builds fetch from and directories of one machine.
func places() []pattern {
	all := compile("let the tool's own configuration name the host",
		need(`\b(proxy|sum)\.golang`+`\.org\b`, "golang"+".org"), need(`\bpypi`+`\.org\b`, "pypi"+".org"),
		need(`\bpythonhosted`+`\.org\b`, "pythonhosted"+".org"), need(`\bcrates`+`\.io\b`, "crates"+".io"),
		need(`\bregistry\.npmjs`+`\.org\b`, "npmjs"+".org"), need(`\bdeb\.debian`+`\.org\b`, "deb.debian"+".org"),
		need(`\bmaven`+`\.org\b`, "maven"+".org"), need(`\b(docker|ghcr)`+`\.io\b`, "docker"+".io", "ghcr"+".io"))
	return append(all, compile("use a path relative to the repository, a flag or a temporary directory",
		need(`(^|[^\w.\-/])/(work|root|home)`+`/`, "/work"+"/", "/root"+"/", "/home"+"/"))...)
}

// vendorText names the files whose words are other people's or made by tools.
func vendorText(name string) bool {
	base := path.Base(name)
	return strings.HasSuffix(base, ".sum") || base == "LICENSE" || base == "buf.mod"
}

func checkLeftovers(t *Tree) []Finding { return search(t, leftovers()) }
func checkPlaces(t *Tree) []Finding    { return search(t, places()) }

func search(t *Tree, patterns []pattern) []Finding {
	var found []Finding
	for _, f := range t.Files {
		if f.Generated || vendorText(f.Path) {
			continue
		}
		lower := bytes.ToLower(f.Data)
		for _, p := range patterns {
			if !slices.ContainsFunc(p.needs, func(w string) bool { return bytes.Contains(lower, []byte(w)) }) {
				continue
			}
			for i, line := range f.Lines() {
				if m := p.re.FindString(line); m != "" {
					found = append(found, Finding{f.Path, i + 1, fmt.Sprintf("%q has no place here", strings.TrimSpace(m)), p.fix})
				}
			}
		}
	}
	return found
}
