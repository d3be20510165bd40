package cli

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const codesFile = "../../docs/exit-codes.md"

// meanings reads what the comments of core say of each code, by its constant's name.
func meanings(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../../pkg/core/code.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || spec.Doc == nil || len(spec.Values) != 1 {
			return true
		}
		number, ok := spec.Values[0].(*ast.BasicLit)
		if !ok {
			return true
		}
		text := strings.Join(strings.Fields(spec.Doc.Text()), " ")
		text = strings.TrimPrefix(strings.TrimPrefix(text, spec.Names[0].Name), ":")
		found[number.Value] = strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(text), "is "), ".")
		return true
	})
	return found
}

// codeTable writes every error code with what follows from it.
func codeTable(t *testing.T) string {
	meaning := meanings(t)
	var b strings.Builder
	b.WriteString("\n| number | code | meaning | retried by itself | exit status |\n|---|---|---|---|---|\n")
	for _, code := range core.Codes() {
		retry := "no"
		if code.Recoverable() {
			retry = "yes"
		}
		text := meaning[fmt.Sprint(int(code))]
		if text == "" {
			t.Errorf("no comment says what code %d, %s, means", code, code)
		}
		fmt.Fprintf(&b, "| %d | `%s` | %s | %s | %d |\n", code, code, text, retry, exitCode(core.Errorf("", code, "x")))
	}
	return b.String()
}

// TestReferenceTellsEveryCode keeps the table of docs/exit-codes.md equal to the codes
// and to what the programs exit with.
func TestReferenceTellsEveryCode(t *testing.T) {
	head, have, ok := strings.Cut(readFile(t, codesFile), referenceMark)
	if !ok {
		t.Fatalf("%s has no line %q", codesFile, referenceMark)
	}
	for _, status := range []int{ExitOK, ExitFailure, ExitUsage, ExitRefused, ExitFenced} {
		if !strings.Contains(head, fmt.Sprintf("\n| %d | ", status)) {
			t.Errorf("%s does not tell what status %d means", codesFile, status)
		}
	}
	want := codeTable(t)
	switch {
	case have == want:
	case os.Getenv(referenceEnv) != "":
		if err := os.WriteFile(codesFile, []byte(head+referenceMark+want), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("docs/exit-codes.md differs from the codes; write it anew with: %s=1 go test -run Reference ./internal/cli", referenceEnv)
	}
}
