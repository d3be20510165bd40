package lint

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// pattern is a text that has no place in the tree. The expressions below are
// written so that this file does not match itself.
type pattern struct {
	re  *regexp.Regexp
	fix string
}

func compile(fix string, expressions ...string) []pattern {
	var all []pattern
	for _, e := range expressions {
		all = append(all, pattern{regexp.MustCompile(e), fix})
	}
	return all
}

// leftovers are words of work that is not finished, and of plans for it.
//
// A loop over a variable called now is not one of them.
func leftovers() []pattern {
	all := compile("finish it, or leave it out and say so in the docs",
		`\bTO`+`DO\b`, `\bFIX`+`ME\b`, `\bX`+`XX\b`, `\bHA`+`CK\b`, `(?im)\bfor`+` now(\s*$|[.,;:)]\s*$|[.,;)] | [a-z])`, `(?i)\bcoming`+` soon\b`, `(?i)\bnot yet`+` implemented\b`)
	return append(all, compile("say what the code does and why; a plan's numbers mean nothing to a reader",
		`(?i)\b(phase|wave|milestone|sprint)`+` [0-9]`, `(?i)\bissue`+` #?[0-9]+\b`, `(?i)\bplan`+` [0-9]+\b`)...)
}

// places are hosts that builds fetch from and directories of one machine.
func places() []pattern {
	all := compile("let the tool's own configuration name the host",
		`\b(proxy|sum)\.golang`+`\.org\b`, `\bpypi`+`\.org\b`, `\bpythonhosted`+`\.org\b`, `\bcrates`+`\.io\b`,
		`\bregistry\.npmjs`+`\.org\b`, `\bdeb\.debian`+`\.org\b`, `\bmaven`+`\.org\b`, `\b(docker|ghcr)`+`\.io\b`)
	return append(all, compile("use a path relative to the repository, a flag or a temporary directory",
		`(^|[^\w.\-/])/(work|root|home)`+`/`)...)
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
		for _, p := range patterns {
			if !p.re.Match(f.Data) {
				continue // most files match nothing, and a line at a time is slow
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
