package lint

import (
	"bytes"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// modulePath is the import path of the repository's root.
const modulePath = "github.com/rollout-substrate/rollout"

// maxFile is the size in bytes above which a file is taken for data and not read.
const maxFile = 2 << 20

// File is one text file of the tree.
type File struct {
	Path      string    // relative to the root, with slashes
	Data      []byte    // the whole content
	AST       *ast.File // parsed with comments; nil unless the name ends in .go
	ParseErr  error     // why AST is nil or incomplete
	Test      bool      // the name ends in _test.go
	Generated bool      // carries the standard "Code generated ... DO NOT EDIT." line
}

// Dir is the directory of the file relative to the root, "." for the root itself.
func (f *File) Dir() string { return path.Dir(f.Path) }

// Lines splits the content into lines without their line ends.
func (f *File) Lines() []string { return strings.Split(string(f.Data), "\n") }

// Tree is the source of the repository. It is read once and not changed by rules.
type Tree struct {
	Fset  *token.FileSet // positions of every AST
	Files []*File        // ordered by path
	paths map[string]*File
}

// File returns the file at a path relative to the root, or nil.
func (t *Tree) File(name string) *File { return t.paths[name] }

// HasDir reports whether a file of the tree lies in or below the directory.
func (t *Tree) HasDir(dir string) bool {
	return slices.ContainsFunc(t.Files, func(f *File) bool { return strings.HasPrefix(f.Path, dir+"/") })
}

// GoFiles returns the parsed Go files that a person wrote, tests included.
func (t *Tree) GoFiles() []*File {
	var files []*File
	for _, f := range t.Files {
		if f.AST != nil && !f.Generated {
			files = append(files, f)
		}
	}
	return files
}

// Line is the line number of a position, from 1.
func (t *Tree) Line(pos token.Pos) int { return t.Fset.Position(pos).Line }

// Load reads the repository below root. Built programs, run-time data, test
// fixtures and hidden directories other than .ci are left out, as are binary files.
func Load(root string) (*Tree, error) {
	t := newTree()
	err := filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while the walk was under way
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		if entry.IsDir() {
			if skipDir(rel) {
				return fs.SkipDir
			}
			return nil
		}
		return t.read(name, rel, entry)
	})
	if err != nil {
		return nil, fmt.Errorf("read the tree below %s: %w", root, err)
	}
	return t, nil
}

func newTree() *Tree {
	return &Tree{Fset: token.NewFileSet(), paths: map[string]*File{}}
}

func skipDir(rel string) bool {
	switch rel {
	case ".", ".ci":
		return false
	case "bin", "data":
		return true
	}
	base := path.Base(rel)
	return strings.HasPrefix(base, ".") || base == "testdata" || base == "__pycache__"
}

func (t *Tree) read(name, rel string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil // removed meanwhile, a link or a socket, or data
	}
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	t.add(rel, data)
	return nil
}

// add parses one file and files it. Binary content is left out.
func (t *Tree) add(rel string, data []byte) {
	if bytes.IndexByte(data[:min(len(data), 8000)], 0) >= 0 {
		return
	}
	f := &File{Path: rel, Data: data, Test: strings.HasSuffix(rel, "_test.go")}
	if strings.HasSuffix(rel, ".go") {
		f.AST, f.ParseErr = parser.ParseFile(t.Fset, rel, data, parser.ParseComments|parser.SkipObjectResolution)
		f.Generated = f.AST != nil && ast.IsGenerated(f.AST)
	}
	t.Files = append(t.Files, f)
	t.paths[rel] = f
}
