package lint

import (
	"fmt"
	"go/ast"
	"regexp"
	"slices"
	"strings"
)

var (
	cellFile = regexp.MustCompile("^`([\\w./-]+\\.go)`$")
	cellName = regexp.MustCompile("`([\\w.]+)`")
)

// checkNames wants every function that a table of a document names beside a Go file
// to be declared there. The cell behind a cell that holds a file only names the
// functions: "name", or "Type.method".
func checkNames(t *Tree) []Finding {
	var found []Finding
	for _, f := range t.Files {
		if !strings.HasSuffix(f.Path, ".md") {
			continue
		}
		for i, line := range f.Lines() {
			cells := strings.Split(line, "|")
			for j := range cells[:len(cells)-1] {
				m := cellFile.FindStringSubmatch(strings.TrimSpace(cells[j]))
				if m == nil {
					continue
				}
				file := t.File(m[1])
				if file == nil || file.AST == nil {
					found = append(found, Finding{f.Path, i + 1, m[1] + " is no Go file of the tree", "name the file in which it is now"})
					continue
				}
				declared := functions(file)
				for _, name := range cellName.FindAllStringSubmatch(cells[j+1], -1) {
					if !slices.Contains(declared, name[1]) {
						found = append(found, Finding{f.Path, i + 1, fmt.Sprintf("%s has no function %s", m[1], name[1]), "name what is there"})
					}
				}
			}
		}
	}
	return found
}

// functions lists what a file declares, methods as "Type.method".
func functions(f *File) []string {
	var names []string
	for _, decl := range f.AST.Decls {
		d, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		name := d.Name.Name
		if d.Recv != nil && len(d.Recv.List) == 1 {
			recv := d.Recv.List[0].Type
			if star, ok := recv.(*ast.StarExpr); ok {
				recv = star.X
			}
			if id, ok := recv.(*ast.Ident); ok {
				name = id.Name + "." + name
			}
		}
		names = append(names, name)
	}
	return names
}
