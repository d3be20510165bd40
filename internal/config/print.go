package config

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Printed is one key as [Loaded.List] shows it.
type Printed struct {
	Key    string `json:"key"`
	Value  any    `json:"value"` // string, integer or list of strings
	Source Source `json:"source"`
}

// List returns every key with its value and source, in the order of the schema.
func (l *Loaded) List() []Printed {
	var out []Printed
	for _, k := range Keys() {
		out = append(out, Printed{Key: k.Name, Value: k.show(&l.Config), Source: l.Sources[k.Name]})
	}
	return out
}

// show returns the key's value in a form that TOML and JSON share.
func (k Key) show(c *Config) any {
	switch p := k.bind(c).(type) {
	case *string:
		return *p
	case *int:
		return *p
	case *time.Duration:
		return p.String()
	case *[]string:
		return append([]string{}, *p...)
	case *core.RunID:
		if p.IsZero() {
			return ""
		}
		return p.String()
	}
	return nil
}

// WriteTOML writes the configuration as a file that loads to the same values,
// each line with its source as a comment. Keys of the top table come first.
func (l *Loaded) WriteTOML(w io.Writer) error {
	var b strings.Builder
	table := ""
	for _, p := range l.List() {
		name := p.Key
		if at := strings.LastIndexByte(name, '.'); at >= 0 {
			if name[:at] != table {
				table = name[:at]
				fmt.Fprintf(&b, "\n[%s]\n", table)
			}
			name = name[at+1:]
		}
		fmt.Fprintf(&b, "%s = %s # %s\n", name, tomlValue(p.Value), p.Source)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// tomlValue writes what show returned.
func tomlValue(v any) string {
	switch v := v.(type) {
	case int:
		return strconv.Itoa(v)
	case []string:
		parts := make([]string, len(v))
		for i, s := range v {
			parts[i] = tomlString(s)
		}
		return "[" + strings.Join(parts, ", ") + "]"
	}
	return tomlString(fmt.Sprint(v))
}

// tomlString quotes s as a basic string of TOML.
func tomlString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
