package lint

import (
	"fmt"
	"go/ast"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// command is one command line found in a document.
type command struct {
	path  string
	line  int
	words []string // environment assignments removed
}

// inlineCommand matches a command between backquotes in running text.
var inlineCommand = regexp.MustCompile("`((?:make|rollout|coordinator|worker) [a-z][^`]*)`")

// prompt matches a line of a console block that somebody types: "$ make", "hub$ make".
var prompt = regexp.MustCompile(`^(?:[a-z][a-z0-9]*)?\$ (.*)$`)

// commands collects the command lines of all Markdown files: every line of a
// fenced block marked sh, bash or shell, the lines behind the prompts of a console
// block, and backquoted ones.
func commands(t *Tree) []command {
	var all []command
	for _, f := range t.Files {
		if !strings.HasSuffix(f.Path, ".md") {
			continue
		}
		language, fenced, continued := "", false, false
		for i, line := range f.Lines() {
			trimmed := strings.TrimSpace(line)
			if mark, ok := strings.CutPrefix(trimmed, "```"); ok {
				fenced = !fenced
				language, continued = mark, false
				continue
			}
			if !fenced {
				for _, m := range inlineCommand.FindAllStringSubmatch(line, -1) {
					all = append(all, split(f.Path, i+1, m[1])...)
				}
				continue
			}
			if continued {
				continued = strings.HasSuffix(trimmed, `\`)
				continue
			}
			continued = strings.HasSuffix(trimmed, `\`)
			switch language {
			case "sh", "bash", "shell":
				all = append(all, split(f.Path, i+1, strings.TrimPrefix(trimmed, "$ "))...)
			case "console":
				if m := prompt.FindStringSubmatch(trimmed); m != nil {
					all = append(all, split(f.Path, i+1, m[1])...)
				}
			}
		}
	}
	return all
}

var (
	separators = regexp.MustCompile(`&&|\|\||[|;&]`)
	assignment = regexp.MustCompile(`^[A-Za-z_]\w*=`)
)

// split cuts a line at the shell's separators. Quoting is not followed: a word
// that comes out wrong is not a command name and is passed over.
func split(file string, line int, text string) []command {
	text, _, _ = strings.Cut(text, " #")
	var all []command
	for _, piece := range separators.Split(text, -1) {
		words := strings.Fields(piece)
		for len(words) > 0 && (assignment.MatchString(words[0]) || words[0] == "sudo" || words[0] == "time") {
			words = words[1:]
		}
		if len(words) > 0 && !strings.HasPrefix(words[0], "#") {
			all = append(all, command{file, line, words})
		}
	}
	return all
}

func checkCommands(t *Tree) []Finding {
	var found []Finding
	programs := programCommands(t)
	rules := targets(t)
	for _, c := range commands(t) {
		name, args := c.words[0], c.words[1:]
		if name == "go" && len(args) > 1 && args[0] == "run" {
			name, args = strings.TrimPrefix(args[1], "./"), args[2:]
		}
		what := ""
		switch base := path.Base(name); {
		case name == "go" && len(args) > 0 && args[0] == "test":
			what = wrongTest(t, args[1:])
		case name == "make":
			what = wrongTarget(t, rules, args)
		case base == "rollout" || base == "coordinator" || base == "worker":
			what = wrongCommand(programs, base, args)
		case strings.HasPrefix(strings.TrimPrefix(name, "./"), "scripts/"), strings.HasPrefix(name, "internal/"), strings.HasPrefix(name, "examples/"), name == ".ci/run":
			name = strings.TrimPrefix(name, "./")
			if t.File(name) == nil && !t.HasDir(name) {
				what = name + " does not exist"
			}
		}
		if what != "" {
			found = append(found, Finding{c.path, c.line, what, "document what works, or make it work"})
		}
	}
	return found
}

var (
	option   = regexp.MustCompile(`^-`)
	chaosRow = regexp.MustCompile(`^[0-9]+$`)
)

func wrongTarget(t *Tree, rules []target, args []string) string {
	for _, arg := range args {
		if option.MatchString(arg) || assignment.MatchString(arg) {
			continue
		}
		i := slices.IndexFunc(rules, func(g target) bool { _, ok := g.matches(arg); return ok })
		if i < 0 {
			return fmt.Sprintf("make has no target %q", arg)
		}
		stem, _ := rules[i].matches(arg)
		if row, ok := strings.CutPrefix(rules[i].name, "chaos-"); ok && chaosRow.MatchString(stem) {
			prefix := "Test" + strings.ToUpper(strings.TrimSuffix(row, "%")) + stem
			if !hasRowTest(t, prefix) {
				return fmt.Sprintf("make %s has no test: none is named %s...", arg, prefix)
			}
		}
	}
	return ""
}

// hasRowTest reports whether a test function's name is the prefix and a capital letter.
func hasRowTest(t *Tree, prefix string) bool {
	for _, f := range t.GoFiles() {
		for _, decl := range f.AST.Decls {
			d, ok := decl.(*ast.FuncDecl)
			if !ok || !f.Test {
				continue
			}
			if rest, ok := strings.CutPrefix(d.Name.Name, prefix); ok && rest != "" && rest[0] >= 'A' && rest[0] <= 'Z' {
				return true
			}
		}
	}
	return false
}

// programCommands reads the words that name a command from internal/cli: the first
// word of each Use and the Aliases of every command literal.
func programCommands(t *Tree) []string {
	var names []string
	cli := func(f *File) bool { return !f.Test && strings.HasPrefix(f.Path, "internal/cli/") }
	t.inspect(cli, func(_ *File, n ast.Node) {
		// A noun with verbs of its own is made by a helper: group("store", ...).
		if call, ok := n.(*ast.CallExpr); ok && called(call) == "group" && len(call.Args) > 0 {
			if lit, ok := call.Args[0].(*ast.BasicLit); ok {
				if text, err := strconv.Unquote(lit.Value); err == nil {
					names = append(names, text)
				}
			}
			return
		}
		pair, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return
		}
		key, ok := pair.Key.(*ast.Ident)
		if !ok || key.Name != "Use" && key.Name != "Aliases" {
			return
		}
		ast.Inspect(pair.Value, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok {
				if text, err := strconv.Unquote(lit.Value); err == nil && text != "" {
					names = append(names, strings.Fields(text)[0])
				}
			}
			return true
		})
	})
	return names
}

// commandWord matches a word that can only be a command: "store", not "ID" or "a.jsonl".
var commandWord = regexp.MustCompile(`^[a-z][a-z-]*$`)

// wrongCommand checks the first word after a program's name.
func wrongCommand(programs []string, program string, args []string) string {
	if len(args) == 0 || !commandWord.MatchString(args[0]) {
		return ""
	}
	if len(programs) == 0 {
		return fmt.Sprintf("%s %s is documented, but internal/cli has no commands", program, args[0])
	}
	if !slices.Contains(programs, args[0]) {
		return fmt.Sprintf("%s has no command %q", program, args[0])
	}
	return ""
}
