package lint

import (
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strings"
)

// testKinds are the flags of go test that choose functions, and how these begin.
var testKinds = map[string]string{"run": "Test", "bench": "Benchmark", "fuzz": "Fuzz"}

// valued are flags of go test with a value of their own, which is no package.
var valued = []string{"benchtime", "count", "fuzztime", "timeout", "parallel", "cpu", "C"}

// wrongTest says what is wrong with the arguments of a documented go test: a package
// that is not there, or an expression that chooses nothing in any of them.
func wrongTest(t *Tree, args []string) string {
	chosen := map[string]string{}
	var packages []string
	for i := 0; i < len(args); i++ {
		flag, isFlag := strings.CutPrefix(args[i], "-")
		if !isFlag {
			packages = append(packages, strings.TrimPrefix(args[i], "./"))
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(flag, "-"), "=")
		if prefix := testKinds[name]; prefix != "" || slices.Contains(valued, name) {
			if !given && i+1 < len(args) {
				i++
				value = args[i]
			}
			if prefix != "" {
				chosen[prefix] = strings.Trim(value, "'\"")
			}
		}
	}
	for _, dir := range packages {
		base := strings.TrimSuffix(dir, "/...")
		if base != "..." && !t.HasDir(base) {
			return fmt.Sprintf("go test names %s, which is no directory", dir)
		}
	}
	for prefix, expression := range chosen {
		top, _, _ := strings.Cut(expression, "/")
		re, err := regexp.Compile(top)
		if err != nil {
			return fmt.Sprintf("go test chooses by %q: %v", expression, err)
		}
		if len(packages) > 0 && top != "^$" && !hasFunction(t, packages, prefix, re) {
			return fmt.Sprintf("go test chooses %q, and no %s... of %s matches", expression, prefix, strings.Join(packages, " "))
		}
	}
	return ""
}

// hasFunction reports whether a test file of the packages has a function of that
// kind whose name matches.
func hasFunction(t *Tree, packages []string, prefix string, re *regexp.Regexp) bool {
	for _, f := range t.GoFiles() {
		if !f.Test || !slices.ContainsFunc(packages, func(p string) bool { return p == "..." || covers(path.Clean(p), f.Dir()) || covers(p, f.Dir()) }) {
			continue
		}
		for _, decl := range f.AST.Decls {
			d, ok := decl.(*ast.FuncDecl)
			if ok && d.Recv == nil && strings.HasPrefix(d.Name.Name, prefix) && re.MatchString(d.Name.Name) {
				return true
			}
		}
	}
	return false
}
