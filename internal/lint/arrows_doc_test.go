package lint

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

const (
	arrowsPage  = "../../docs/architecture.md"
	arrowsBegin = "<!-- the table of arrows begins -->\n"
	arrowsEnd   = "<!-- the table of arrows ends -->\n"
)

// arrowTable writes the table of arrows for the documentation.
func arrowTable() string {
	var b strings.Builder
	b.WriteString("| room | may import, beside its own packages | because |\n|---|---|---|\n")
	for _, a := range arrows {
		var may []string
		for _, m := range a.may {
			may = append(may, "`"+m+"`")
		}
		if a.std {
			may = append(may, "the standard library")
		}
		list := strings.Join(append(may, a.own...), ", ")
		if list == "" {
			list = "nothing of this module"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", a.dir, list, a.why)
	}
	return b.String()
}

// TestReferenceTellsTheArrows keeps the table in docs/architecture.md equal to the
// one that the imports are held to.
func TestReferenceTellsTheArrows(t *testing.T) {
	text, err := os.ReadFile(arrowsPage)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), arrowsBegin)
	have, tail, ends := strings.Cut(rest, arrowsEnd)
	if !ok || !ends {
		t.Fatalf("%s has no lines %q and %q", arrowsPage, arrowsBegin, arrowsEnd)
	}
	if want := arrowTable(); have != want {
		if os.Getenv("UPDATE_REFERENCE") != "" {
			if err := os.WriteFile(arrowsPage, []byte(head+arrowsBegin+want+arrowsEnd+tail), 0o644); err != nil {
				t.Fatal(err)
			}
			return
		}
		t.Errorf("docs/architecture.md differs from the table of arrows; write it anew with: UPDATE_REFERENCE=1 go test -run Reference ./internal/lint")
	}
}
