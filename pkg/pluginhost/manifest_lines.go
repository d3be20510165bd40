package pluginhost

import (
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// lineWalker finds the line on which each key of a TOML text stands first.
type lineWalker struct {
	parser unstable.Parser
	lines  map[string]int
}

// walk reads as far as the text is valid; what follows an error has no lines.
func (w *lineWalker) walk(data []byte) {
	w.parser.Reset(data)
	table := ""
	for w.parser.NextExpression() {
		n := w.parser.Expression()
		switch n.Kind {
		case unstable.Table, unstable.ArrayTable:
			table = w.key("", n.Key())
		case unstable.KeyValue:
			w.keyValue(table, n)
		}
	}
}

func (w *lineWalker) keyValue(prefix string, n *unstable.Node) {
	name := w.key(prefix, n.Key())
	if v := n.Value(); v.Kind == unstable.InlineTable {
		for it := v.Children(); it.Next(); {
			if child := it.Node(); child.Kind == unstable.KeyValue {
				w.keyValue(name, child)
			}
		}
	}
}

// key notes the line of a dotted key and of every table it names on the way, and
// returns its whole name.
func (w *lineWalker) key(prefix string, it unstable.Iterator) string {
	name := prefix
	for it.Next() {
		n := it.Node()
		name = strings.TrimPrefix(name+"."+string(n.Data), ".")
		if _, known := w.lines[name]; !known {
			w.lines[name] = w.parser.Shape(n.Raw).Start.Line
		}
	}
	return name
}
