package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// setting is one value that a file gives to a key.
type setting struct {
	key  int // index into schema.keys
	line int
	val  value
}

// seen is one place where a file names a key, whatever its value.
type seen struct {
	key  int // index into schema.keys
	name string
	line int
}

// walker collects what one file sets and what is wrong with it.
type walker struct {
	schema   *schema
	file     string
	parser   unstable.Parser
	settings []setting
	seen     []seen
	problems core.Violations
}

// readFile walks the text of one file. Violations come in the order of lines.
func readFile(s *schema, file string, data []byte) ([]setting, core.Violations) {
	w := &walker{schema: s, file: file}
	w.walk(data)
	w.repeated()
	w.decode(data, w.parser.Error())
	slices.SortStableFunc(w.problems, func(a, b core.Violation) int { return a.Line - b.Line })
	return w.settings, w.problems
}

func (w *walker) fail(line int, key, format string, args ...any) {
	w.problems = append(w.problems, core.Violation{File: w.file, Line: line, Key: key, Msg: fmt.Sprintf(format, args...)})
}

func (w *walker) line(r unstable.Range) int { return w.parser.Shape(r).Start.Line }

// walk visits every expression. The parser stops at the first syntax error.
func (w *walker) walk(data []byte) {
	w.parser.Reset(data)
	var table []string
	for w.parser.NextExpression() {
		switch n := w.parser.Expression(); n.Kind {
		case unstable.Table, unstable.ArrayTable:
			var line int
			table, line = w.path(nil, n.Key())
			w.header(table, line, n.Kind == unstable.ArrayTable)
		case unstable.KeyValue:
			w.keyValue(table, n)
		}
	}
}

// path returns the dotted parts of a key behind prefix, and the line of its end.
func (w *walker) path(prefix []string, it unstable.Iterator) ([]string, int) {
	out, line := slices.Clone(prefix), 0
	for it.Next() {
		out = append(out, string(it.Node().Data))
		line = w.line(it.Node().Raw)
	}
	return out, line
}

// header checks the name of a [table].
func (w *walker) header(path []string, line int, array bool) {
	name := dotted(path)
	_, isKey := w.schema.byName[name]
	switch {
	case isKey:
		w.fail(line, name, "is a table here, expected %s", w.schema.keys[w.schema.byName[name]].Type)
	case !w.schema.tables[name]:
		w.unknown(name, line)
	case array:
		w.fail(line, name, "is a list of tables here, write [%s] once", name)
	}
}

func (w *walker) keyValue(table []string, n *unstable.Node) {
	path, line := w.path(table, n.Key())
	name, val := dotted(path), n.Value()
	i, isKey := w.schema.byName[name]
	switch {
	case isKey:
		w.set(i, name, line, val)
	case w.schema.tables[name] && val.Kind == unstable.InlineTable:
		for it := val.Children(); it.Next(); {
			w.keyValue(path, it.Node())
		}
	case w.schema.tables[name]:
		w.fail(line, name, "is %s, expected a table: write [%s]", describe(val), name)
	default:
		w.unknown(name, line)
	}
}

func (w *walker) unknown(name string, line int) {
	known := slices.Collect(maps.Keys(w.schema.byName))
	for t := range w.schema.tables {
		known = append(known, t)
	}
	slices.Sort(known) // the same suggestion every time
	if near := Nearest(name, known); near != "" {
		w.fail(line, name, "is not a known key, did you mean %s?", near)
		return
	}
	w.fail(line, name, "is not a known key, remove it; `rollout config print` lists all keys")
}

// set reads the value of a known key.
func (w *walker) set(i int, name string, line int, n *unstable.Node) {
	w.seen = append(w.seen, seen{key: i, name: name, line: line})
	v, problem := w.schema.keys[i].fromNode(n)
	if problem != "" {
		w.fail(line, name, "%s", problem)
		return
	}
	w.settings = append(w.settings, setting{key: i, line: line, val: v})
}

// fromNode reads a value as TOML spells it.
func (k Key) fromNode(n *unstable.Node) (value, string) {
	mismatch := fmt.Sprintf("is %s, expected %s", describe(n), k.Type)
	switch k.Type {
	case TypeInt:
		if n.Kind != unstable.Integer {
			return value{}, mismatch
		}
		number, err := strconv.ParseInt(string(n.Data), 0, 64)
		if err != nil {
			return value{}, fmt.Sprintf("%s does not fit 64 bits", clip(string(n.Data)))
		}
		return k.finish(value{number: number})
	case TypeList:
		if n.Kind != unstable.Array {
			return value{}, mismatch
		}
		var list []string
		for it := n.Children(); it.Next(); {
			switch e := it.Node(); e.Kind {
			case unstable.String:
				list = append(list, string(e.Data))
			case unstable.Comment:
			default:
				return value{}, fmt.Sprintf("holds %s, expected %s", describe(e), k.Type)
			}
		}
		return k.finish(value{list: list})
	}
	if n.Kind != unstable.String {
		return value{}, mismatch
	}
	return k.fromString(string(n.Data))
}

// describe names the type of a node for people.
func describe(n *unstable.Node) string {
	switch n.Kind {
	case unstable.String:
		return "a string"
	case unstable.Integer:
		return "a whole number"
	case unstable.Float:
		return "a number with a fraction"
	case unstable.Bool:
		return "true or false"
	case unstable.Array:
		return "a list"
	case unstable.InlineTable:
		return "a table"
	}
	return "a date or time"
}

// decode runs the ordinary decoder, which finds what a walk does not: repeated
// keys and tables, and numbers and dates that do not exist. syntax is the error
// that ended the walk, if any.
func (w *walker) decode(data []byte, syntax error) {
	err := toml.Unmarshal(data, &map[string]any{})
	var at *toml.DecodeError
	switch {
	case errors.As(err, &at):
		line, _ := at.Position()
		if slices.ContainsFunc(w.problems, func(v core.Violation) bool { return v.Line == line }) {
			return // the walk has said it better
		}
		w.fail(line, strings.Join(at.Key(), "."), "%s", strings.TrimPrefix(at.Error(), "toml: "))
	case err != nil:
		w.fail(0, "", "%s", strings.TrimPrefix(err.Error(), "toml: "))
	case syntax != nil:
		w.fail(0, "", "%s", syntax)
	}
}

// repeated reports a key that one file sets twice, under one name or two.
func (w *walker) repeated() {
	first := map[int]seen{}
	for _, s := range w.seen {
		other, again := first[s.key]
		switch {
		case !again:
			first[s.key] = s
		case other.name != s.name:
			w.fail(s.line, s.name, "is the same key as %s in line %d, keep one of them", other.name, other.line)
		default:
			w.fail(s.line, s.name, "is already set in line %d, keep one of them", other.line)
		}
	}
}

// dotted joins the parts of a key; a part that holds a dot itself is quoted.
func dotted(path []string) string {
	parts := slices.Clone(path)
	for i, p := range parts {
		if p == "" || strings.ContainsAny(p, ". \t\n\"") {
			parts[i] = strconv.Quote(clip(p))
		}
	}
	return strings.Join(parts, ".")
}
