package pluginhost

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	defaultCallTimeout  = 30 * time.Second
	defaultStartTimeout = 10 * time.Second
	maxTimeout          = 7 * 24 * time.Hour
	maxConcurrency      = 4096
	maxName             = 64
)

// subtables are the tables of a manifest that hold keys of the table below.
var subtables = map[string]bool{
	"runtime": true, "sandbox": true, "entry": true, "entry.so": true, "entry.python": true, "entry.sidecar": true, "kind": true,
}

// canonical replaces the names of the Rust original, and keys written directly
// into [entry], by ours.
func canonical(key string) string {
	if rest, ok := strings.CutPrefix(key, "entry."); ok {
		head, tail, more := strings.Cut(rest, ".")
		switch head {
		case "cdylib", "rust-cdylib":
			head = "so"
		case "pyo3":
			head = "python"
		case "path", "symbol", "sha256":
			return "entry.so." + rest
		case "module", "factory":
			return "entry.python." + rest
		case "command", "protocol", "socket_template", "env_allow":
			return "entry.sidecar." + rest
		}
		if more {
			return "entry." + head + "." + tail
		}
		return "entry." + head
	}
	return key
}

// setter stores a value and returns what is wrong with it and what to do, or "".
type setter func(p *manifestParser, v any) string

// manifestKeys are the keys of a manifest by their canonical name.
var manifestKeys = map[string]setter{
	"name":               text(func(p *manifestParser, s string) string { p.m.Name = s; return checkName(s) }),
	"version":            text(func(p *manifestParser, s string) string { p.m.Version = s; return checkVersion(s) }),
	"kind":               text(func(p *manifestParser, s string) string { return p.kind(s) }),
	"kind.custom":        text(func(p *manifestParser, s string) string { return p.customKind(s) }),
	"trait_id":           text(func(p *manifestParser, s string) string { p.m.TraitID = s; return checkText(s, 256) }),
	"mode":               text(func(p *manifestParser, s string) string { return p.mode(s) }),
	"isolation":          text(func(p *manifestParser, s string) string { return p.isolation(s) }),
	"config_schema_path": text(func(p *manifestParser, s string) string { p.m.ConfigSchemaPath = s; return checkPath(s) }),
	"network_allowlist": texts(func(p *manifestParser, ss []string) string {
		p.m.NetworkAllowlist = ss
		return checkEach(ss, checkHost)
	}),

	"runtime.python_min":    text(func(p *manifestParser, s string) string { p.m.Runtime.PythonMin = s; return checkPythonMin(s) }),
	"runtime.interpreter":   text(func(p *manifestParser, s string) string { p.m.Runtime.Interpreter = s; return checkPath(s) }),
	"runtime.gpu":           flag(func(p *manifestParser, b bool) { p.m.Runtime.GPU = b }),
	"runtime.memory_mib":    number(0, 1<<24, func(p *manifestParser, n int) { p.m.Runtime.MemoryMiB = n }),
	"runtime.concurrency":   number(1, maxConcurrency, func(p *manifestParser, n int) { p.m.Runtime.Concurrency = n }),
	"runtime.call_timeout":  duration(func(p *manifestParser, d time.Duration) { p.m.Runtime.CallTimeout = d }),
	"runtime.start_timeout": duration(func(p *manifestParser, d time.Duration) { p.m.Runtime.StartTimeout = d }),

	"sandbox.read":    texts(func(p *manifestParser, ss []string) string { p.m.Sandbox.Read = ss; return checkEach(ss, checkAbs) }),
	"sandbox.require": flag(func(p *manifestParser, b bool) { p.m.Sandbox.Require = b }),

	"entry.so.path":   text(func(p *manifestParser, s string) string { p.m.SO.Path = s; return checkPath(s) }),
	"entry.so.symbol": text(func(p *manifestParser, s string) string { p.m.SO.Symbol = s; return checkSymbol(s) }),
	"entry.so.sha256": text(func(p *manifestParser, s string) string { p.m.SO.SHA256 = strings.ToLower(s); return checkSHA256(s) }),

	"entry.python.module":  text(func(p *manifestParser, s string) string { p.m.Python.Module = s; return checkModule(s) }),
	"entry.python.factory": text(func(p *manifestParser, s string) string { p.m.Python.Factory = s; return checkSymbol(s) }),

	"entry.sidecar.command":         texts(func(p *manifestParser, ss []string) string { p.m.Sidecar.Command = ss; return checkCommand(ss) }),
	"entry.sidecar.protocol":        text(func(p *manifestParser, s string) string { return p.protocol(s) }),
	"entry.sidecar.socket_template": text(func(_ *manifestParser, s string) string { return checkTemplate(s) }),
	"entry.sidecar.env_allow": texts(func(p *manifestParser, ss []string) string {
		p.m.Sidecar.EnvAllow = ss
		return checkEach(ss, checkEnvName)
	}),

	"config": func(p *manifestParser, v any) string {
		t, ok := v.(map[string]any)
		if !ok {
			return "is " + typeName(v) + "; make it a table [config]"
		}
		c, bad := plain(t)
		if bad != "" {
			return bad
		}
		p.m.Config, _ = c.(map[string]any)
		return ""
	},
}

func text(set func(*manifestParser, string) string) setter {
	return func(p *manifestParser, v any) string {
		s, ok := v.(string)
		if !ok {
			return "is " + typeName(v) + "; write a string in quotes"
		}
		return set(p, s)
	}
}

func texts(set func(*manifestParser, []string) string) setter {
	return func(p *manifestParser, v any) string {
		list, ok := v.([]any)
		if !ok {
			return "is " + typeName(v) + "; write a list of strings in brackets"
		}
		ss := make([]string, len(list))
		for i, e := range list {
			if ss[i], ok = e.(string); !ok {
				return fmt.Sprintf("element %d is %s; write a string in quotes", i+1, typeName(e))
			}
		}
		return set(p, ss)
	}
}

func flag(set func(*manifestParser, bool)) setter {
	return func(p *manifestParser, v any) string {
		b, ok := v.(bool)
		if !ok {
			return "is " + typeName(v) + "; write true or false without quotes"
		}
		set(p, b)
		return ""
	}
}

func number(least, most int64, set func(*manifestParser, int)) setter {
	return func(p *manifestParser, v any) string {
		n, ok := v.(int64)
		if !ok {
			return "is " + typeName(v) + "; write a whole number without quotes"
		}
		if n < least || n > most {
			return fmt.Sprintf("is %d; it must lie between %d and %d", n, least, most)
		}
		set(p, int(n))
		return ""
	}
}

func duration(set func(*manifestParser, time.Duration)) setter {
	return func(p *manifestParser, v any) string {
		s, ok := v.(string)
		if !ok {
			return "is " + typeName(v) + `; write a duration in quotes, such as "30s"`
		}
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 || d > maxTimeout {
			return fmt.Sprintf(`is %q; write a duration above zero and up to %v, such as "30s"`, cut(s), maxTimeout)
		}
		set(p, d)
		return ""
	}
}

func (p *manifestParser) kind(s string) string {
	p.m.Kind = core.PluginKind(s)
	if slices.Contains(kinds, p.m.Kind) {
		return ""
	}
	return fmt.Sprintf("is %q; set it to one of %s", cut(s), kindList())
}

func (p *manifestParser) customKind(s string) string {
	if other, twice := p.seen["kind"]; twice {
		return "is set beside " + other + "; keep one of the two"
	}
	p.seen["kind"] = p.seen["kind.custom"]
	p.m.Kind, p.m.CustomKind = core.KindCustom, s
	if s == "" {
		return "is empty; name the custom kind"
	}
	return checkText(s, maxName)
}

func (p *manifestParser) mode(s string) string {
	switch s {
	case "so", "cdylib", "rust-cdylib":
		p.m.Mode = core.ModeSO
	case "python", "pyo3":
		p.m.Mode = core.ModePython
	case "sidecar":
		p.m.Mode = core.ModeSidecar
	default:
		return fmt.Sprintf("is %q; set it to so, python or sidecar", cut(s))
	}
	return ""
}

func (p *manifestParser) isolation(s string) string {
	p.m.Isolated = true
	if s != "process" {
		return fmt.Sprintf(`is %q; set it to "process", or leave it out to run in the worker`, cut(s))
	}
	return ""
}

func (p *manifestParser) protocol(s string) string {
	switch s {
	case "framed":
		p.m.Sidecar.Protocol = core.ProtocolFramed
	case "grpc", "grpc-uds":
		p.m.Sidecar.Protocol = core.ProtocolGRPC
	case "framed-json-uds":
		p.m.Sidecar.Protocol = core.ProtocolFramedJSON
	default:
		return fmt.Sprintf("is %q; set it to framed, grpc or framed-json-uds", cut(s))
	}
	return ""
}

var kinds = []core.PluginKind{
	core.KindEnvHarness, core.KindToolHarness, core.KindEvalHarness, core.KindRewardModel, core.KindInferenceBackend,
	core.KindStorage, core.KindQueue, core.KindObjectStore, core.KindCustom,
}

func kindList() string {
	out := make([]string, len(kinds))
	for i, k := range kinds {
		out[i] = string(k)
	}
	return strings.Join(out, ", ")
}
