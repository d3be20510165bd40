package config

import (
	"fmt"
	"strings"
)

// Table returns the schema as a Markdown table, which the documentation holds.
func Table() string {
	var b strings.Builder
	b.WriteString("| key | type | default | used by | what |\n|---|---|---|---|---|\n")
	for _, k := range Keys() {
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", names(k), typeWord(k.Type), defaultWord(k), who(k.Who), k.Doc)
	}
	return b.String()
}

func names(k Key) string {
	s := "`" + k.Name + "`"
	for _, a := range k.Aliases {
		s += " (also `" + a + "`)"
	}
	return s
}

func typeWord(t Type) string {
	return [...]string{TypeString: "string", TypeInt: "integer", TypeDuration: "duration", TypeList: "list", TypeRunID: "ULID"}[t]
}

func defaultWord(k Key) string {
	if k.DefaultDoc != "" {
		return k.DefaultDoc
	}
	d := k.def(DefaultDataDir, Coordinator)
	if strings.HasPrefix(d, DefaultDataDir+"/") {
		d = "./" + d
	}
	return "`" + d + "`"
}

func who(p Program) string {
	var out []string
	for _, x := range []struct {
		bit  Program
		name string
	}{{Coordinator, "coordinator"}, {Worker, "worker"}, {Operator, "rollout"}} {
		if p&x.bit != 0 {
			out = append(out, x.name)
		}
	}
	return strings.Join(out, ", ")
}
