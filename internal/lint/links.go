package lint

import (
	"fmt"
	"path"
	"regexp"
	"strings"
)

// link matches the target of a Markdown link, without its anchor.
var link = regexp.MustCompile(`\]\(([^)#\s]+)[^)]*\)`)

// chapters is the list of the documents beside and below it.
const chapters = "docs/README.md"

// checkLinks wants every relative link of a document to lead to a file or directory
// of the tree, and every document of docs/ to be listed in docs/README.md.
func checkLinks(t *Tree) []Finding {
	var found []Finding
	linked := map[string]bool{}
	for _, f := range t.Files {
		if !strings.HasSuffix(f.Path, ".md") {
			continue
		}
		for i, line := range f.Lines() {
			for _, m := range link.FindAllStringSubmatch(line, -1) {
				if strings.Contains(m[1], "://") || strings.HasPrefix(m[1], "mailto:") {
					continue
				}
				name := path.Join(f.Dir(), m[1])
				if f.Path == chapters {
					linked[name] = true
				}
				if t.File(name) == nil && !t.HasDir(name) {
					found = append(found, Finding{f.Path, i + 1, fmt.Sprintf("the link to %s leads nowhere", m[1]), "correct it or remove it"})
				}
			}
		}
	}
	for _, f := range t.Files {
		if strings.HasPrefix(f.Path, "docs/") && strings.HasSuffix(f.Path, ".md") && f.Path != chapters && !linked[f.Path] {
			found = append(found, Finding{chapters, 0, "the list lacks " + f.Path, "add a line that says what it is about"})
		}
	}
	return found
}
