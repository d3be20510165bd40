package lint

import (
	"cmp"
	"fmt"
	"go/ast"
	"slices"
)

// Finding is one place where a rule is broken.
type Finding struct {
	Path string // relative to the root
	Line int    // from 1; 0 when the whole file or directory is meant
	What string // what is wrong
	Fix  string // what to do about it
}

// String renders the finding as "path:line: what; fix".
func (f Finding) String() string {
	if f.Line == 0 {
		return fmt.Sprintf("%s: %s; %s", f.Path, f.What, f.Fix)
	}
	return fmt.Sprintf("%s:%d: %s; %s", f.Path, f.Line, f.What, f.Fix)
}

// Rule is one rule of the house.
type Rule struct {
	Name  string                // a short name, also the prefix of its fixtures in testdata
	Why   string                // what keeping it buys
	Check func(*Tree) []Finding // the places that break the rule, in any order
}

// Run applies the rule and returns its findings ordered by place.
func (r Rule) Run(t *Tree) []Finding {
	found := r.Check(t)
	slices.SortStableFunc(found, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), cmp.Compare(a.Line, b.Line))
	})
	return found
}

// Rules returns every rule of the house.
func Rules() []Rule {
	return []Rule{
		{"parse", "the other rules see only what parses", checkParse},
		{"gofmt", "a diff shows what changed, not who formatted it", checkFormat},
		{"arrows", "data passes through the rooms in one direction", checkArrows},
		{"modules", "a library kept in one room can be replaced there", checkModules},
		{"packagedoc", "a room says what it is for", checkPackageDocs},
		{"exported", "a name that others use says what it promises", checkExported},
		{"leftovers", "nothing that was meant to be finished later stays", checkLeftovers},
		{"places", "the tree builds anywhere and names no one's machine", checkPlaces},
		{"sleeps", "a test that waits for time is slow or flaky, mostly both", checkSleeps},
		{"panics", "an error is a value that a caller can handle", checkPanics},
		{"exits", "only a program may end the program", checkExits},
		{"inits", "wiring that the compiler sees is wiring one can follow", checkInits},
		{"dropped", "an error is dropped only where the reason stands beside it", checkDropped},
		{"generated", "the committed code is what the contracts say", checkGenerated},
		{"makefile", "a target that is listed works", checkMakefile},
		{"commands", "a documented command can be typed as it stands", checkCommands},
		{"links", "a reader who follows a link arrives", checkLinks},
		{"names", "a reader who looks a function up finds it", checkNames},
		{"length", "a file fits in a reader's head", checkLength},
		{"directories", "the tree is the architecture diagram", checkDirectories},
		{"notice", "the licences of what we build on are told", checkNotice},
	}
}

func checkParse(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.Files {
		if f.ParseErr != nil {
			found = append(found, Finding{f.Path, 0, f.ParseErr.Error(), "mend the syntax"})
		}
	}
	return found
}

// inspect calls visit for each node of each hand-written Go file that keep accepts.
func (t *Tree) inspect(keep func(*File) bool, visit func(*File, ast.Node)) {
	for _, f := range t.GoFiles() {
		if !keep(f) {
			continue
		}
		ast.Inspect(f.AST, func(n ast.Node) bool {
			if n != nil {
				visit(f, n)
			}
			return true
		})
	}
}

// called returns "pkg.Func" for a call through a package name or a value, "Func"
// for a plain one, and "" for anything else.
func called(call *ast.CallExpr) string {
	switch fun := call.Fun.(type) {
	case *ast.Ident:
		return fun.Name
	case *ast.SelectorExpr:
		if x, ok := fun.X.(*ast.Ident); ok {
			return x.Name + "." + fun.Sel.Name
		}
	}
	return ""
}
