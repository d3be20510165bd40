package lint

import (
	"fmt"
	"go/ast"
	"go/token"
	"regexp"
	"strings"
)

func checkPackageDocs(t *Tree) []Finding {
	type state struct{ name, doc string }
	packages := map[string]*state{}
	for _, f := range t.Files {
		if f.AST == nil || f.Test || f.Generated {
			continue
		}
		p := packages[f.Dir()]
		if p == nil {
			p = &state{name: f.AST.Name.Name}
			packages[f.Dir()] = p
		}
		if f.AST.Doc != nil && p.doc == "" {
			p.doc = f.AST.Doc.Text()
		}
	}
	var found []Finding
	for dir, p := range packages {
		switch {
		case p.doc == "":
			found = append(found, Finding{dir, 0, "the package has no package comment", "write one in doc.go"})
		case p.name != "main" && !strings.HasPrefix(p.doc, "Package "+p.name+" "):
			found = append(found, Finding{dir, 0, "the package comment does not start with its name",
				fmt.Sprintf("begin it with %q", "Package "+p.name)})
		}
	}
	return found
}

func checkExported(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.GoFiles() {
		if f.Test || f.AST.Name.Name == "main" {
			continue
		}
		report := func(pos token.Pos, kind, name string) {
			found = append(found, Finding{f.Path, t.Line(pos), kind + " " + name + " has no doc comment",
				"say what it promises in a comment above it"})
		}
		for _, decl := range f.AST.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if name, ok := exportedFunc(d); ok && d.Doc == nil {
					report(d.Pos(), "function", name)
				}
			case *ast.GenDecl:
				t.checkDecl(d, report)
			}
		}
	}
	return found
}

// exportedFunc names a function or method that other packages can call.
func exportedFunc(d *ast.FuncDecl) (string, bool) {
	if !d.Name.IsExported() {
		return "", false
	}
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return d.Name.Name, true
	}
	recv := d.Recv.List[0].Type
	for {
		switch r := recv.(type) {
		case *ast.StarExpr:
			recv = r.X
		case *ast.IndexExpr:
			recv = r.X
		case *ast.IndexListExpr:
			recv = r.X
		case *ast.Ident:
			return r.Name + "." + d.Name.Name, r.IsExported()
		default:
			return "", false
		}
	}
}

func (t *Tree) checkDecl(d *ast.GenDecl, report func(token.Pos, string, string)) {
	var group groups
	for _, spec := range d.Specs {
		switch s := spec.(type) {
		case *ast.TypeSpec:
			if !s.Name.IsExported() {
				continue
			}
			if s.Doc == nil && d.Doc == nil && s.Comment == nil {
				report(s.Pos(), "type", s.Name.Name)
			}
			t.checkMembers(s.Name.Name, s.Type, report)
		case *ast.ValueSpec:
			told := group.told(t, s, s.Doc, s.Comment)
			for _, name := range s.Names {
				if name.IsExported() && d.Doc == nil && !told {
					report(name.Pos(), d.Tok.String(), name.Name)
				}
			}
		}
	}
}

// settings matches the types that a user fills in. Each field of theirs gives unit
// and default; in other structs the type's own comment may speak for the fields.
var settings = regexp.MustCompile(`(Config|Options)$`)

// checkMembers looks at the fields of a struct and the methods of an interface.
func (t *Tree) checkMembers(owner string, expr ast.Expr, report func(token.Pos, string, string)) {
	var list *ast.FieldList
	kind := "field"
	var group groups
	switch x := expr.(type) {
	case *ast.StructType:
		if !settings.MatchString(owner) {
			return
		}
		list = x.Fields
	case *ast.InterfaceType:
		list, kind = x.Methods, "method"
	default:
		return
	}
	for _, field := range list.List {
		told := field.Doc != nil || field.Comment != nil
		if kind == "field" {
			told = group.told(t, field, field.Doc, field.Comment)
		}
		for _, name := range field.Names {
			if name.IsExported() && !told {
				report(name.Pos(), kind, owner+"."+name.Name)
			}
		}
	}
}

// groups lets a comment speak for the lines that follow it without a blank line.
type groups struct {
	last  int  // line on which the previous node ended
	above bool // a comment covers the nodes since the last blank line
}

// told reports whether a node is covered: by a comment above it or beside it, or
// by a comment above an earlier node of its group.
func (g *groups) told(t *Tree, n ast.Node, doc, beside *ast.CommentGroup) bool {
	if t.Line(n.Pos()) > g.last+1 {
		g.above = false
	}
	g.above = g.above || doc != nil
	g.last = t.Line(n.End())
	return g.above || beside != nil
}
