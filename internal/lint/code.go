package lint

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/token"
	"strings"
)

func handwritten(*File) bool { return true }
func tests(f *File) bool     { return f.Test }

func checkFormat(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.GoFiles() {
		if formatted, err := format.Source(f.Data); err == nil && !bytes.Equal(formatted, f.Data) {
			found = append(found, Finding{f.Path, 0, "the file is not formatted", "run make fmt"})
		}
	}
	return found
}

// commented reports whether line carries a comment that contains the word, or
// any comment when the word is empty. A comment that ends on the line above
// counts where above is set.
func (t *Tree) commented(f *File, line int, above bool, word string) bool {
	for _, group := range f.AST.Comments {
		last := t.Line(group.End())
		first := t.Line(group.Pos())
		if line < first || line > last && !(above && line == last+1) {
			continue
		}
		if strings.Contains(group.Text(), word) {
			return true
		}
	}
	return false
}

// checkSleeps allows time.Sleep in tests inside a call of synctest.Test, where
// time is virtual, and on lines whose comment says synctest because a helper is
// called from such a bubble.
func checkSleeps(t *Tree) []Finding {
	type span struct{ from, to token.Pos }
	bubbles := map[*File][]span{}
	t.inspect(tests, func(f *File, n ast.Node) {
		if call, ok := n.(*ast.CallExpr); ok && called(call) == "synctest.Test" {
			bubbles[f] = append(bubbles[f], span{call.Pos(), call.End()})
		}
	})
	var found []Finding
	t.inspect(tests, func(f *File, n ast.Node) {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || sel.Sel.Name != "Sleep" {
			return
		}
		if x, ok := sel.X.(*ast.Ident); !ok || x.Name != "time" {
			return
		}
		for _, bubble := range bubbles[f] {
			if bubble.from <= n.Pos() && n.Pos() < bubble.to {
				return
			}
		}
		line := t.Line(n.Pos())
		if !t.commented(f, line, false, "synctest") {
			found = append(found, Finding{f.Path, line, "a test sleeps in real time",
				"wait for the event itself, or run inside synctest.Test (a helper called there says so: // synctest)"})
		}
	})
	return found
}

func checkPanics(t *Tree) []Finding {
	var found []Finding
	t.inspect(handwritten, func(f *File, n ast.Node) {
		call, ok := n.(*ast.CallExpr)
		if !ok || called(call) != "panic" || len(call.Args) != 1 {
			return
		}
		if arg, ok := call.Args[0].(*ast.CallExpr); ok && strings.HasPrefix(called(arg), "fmt.Sprint") {
			found = append(found, Finding{f.Path, t.Line(n.Pos()), "panic with a formatted text",
				"return a core.Error; where a caller broke the contract, panic with a constant"})
		}
	})
	return found
}

func checkExits(t *Tree) []Finding {
	var found []Finding
	library := func(f *File) bool { return !f.Test && f.AST.Name.Name != "main" }
	t.inspect(library, func(f *File, n ast.Node) {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return
		}
		switch name := called(call); name {
		case "os.Exit", "syscall.Exit", "log.Fatal", "log.Fatalf", "log.Fatalln":
			found = append(found, Finding{f.Path, t.Line(n.Pos()), name + " in a library",
				"return an error, or an exit status that main passes to os.Exit"})
		}
	})
	return found
}

func checkInits(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.GoFiles() {
		for _, decl := range f.AST.Decls {
			d, ok := decl.(*ast.FuncDecl)
			if ok && d.Recv == nil && d.Name.Name == "init" && !f.Test {
				found = append(found, Finding{f.Path, t.Line(d.Pos()), "func init does work nobody asked for",
					"call it from the constructor that needs it"})
			}
		}
	}
	return found
}

func checkDropped(t *Tree) []Finding {
	var found []Finding
	shipped := func(f *File) bool { return !f.Test }
	t.inspect(shipped, func(f *File, n ast.Node) {
		assign, ok := n.(*ast.AssignStmt)
		if !ok || len(assign.Rhs) != 1 {
			return
		}
		if _, ok := assign.Rhs[0].(*ast.CallExpr); !ok {
			return
		}
		for _, left := range assign.Lhs {
			if id, ok := left.(*ast.Ident); !ok || id.Name != "_" {
				return
			}
		}
		line := t.Line(n.Pos())
		if !t.commented(f, line, true, "") {
			found = append(found, Finding{f.Path, line, "a result is dropped without a reason",
				"handle the error, or say in a comment beside it why it cannot matter"})
		}
	})
	return found
}
