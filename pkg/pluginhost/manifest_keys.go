package pluginhost

import (
	"fmt"
	"math"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/pelletier/go-toml/v2"
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

var (
	nameRE     = regexp.MustCompile(`^[a-z0-9][a-z0-9-]*$`)
	versionRE  = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z.+-]*$`)
	moduleRE   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$`)
	symbolRE   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	sha256RE   = regexp.MustCompile(`^[0-9a-fA-F]{64}$`)
	templateRE = regexp.MustCompile(`\{[^{}]*\}|<[^<>]*>`)
)

func checkName(s string) string {
	if !nameRE.MatchString(s) || len(s) > maxName {
		return fmt.Sprintf("is %q; use up to %d letters a-z, digits and dashes, beginning with a letter or digit", cut(s), maxName)
	}
	return ""
}

func checkVersion(s string) string {
	if !versionRE.MatchString(s) || len(s) > maxName {
		return fmt.Sprintf(`is %q; use up to %d letters, digits, dots, dashes and plus signs, such as "0.1.0"`, cut(s), maxName)
	}
	return ""
}

func checkText(s string, limit int) string {
	if len(s) > limit || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Sprintf("is %q; use up to %d bytes without control characters", cut(s), limit)
	}
	return ""
}

func checkPath(s string) string {
	if s == "" || len(s) > 1024 || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Sprintf("is %q; write a path of up to 1024 bytes without control characters", cut(s))
	}
	return ""
}

func checkAbs(s string) string {
	if msg := checkPath(s); msg != "" || filepath.IsAbs(s) {
		return msg
	}
	return fmt.Sprintf("has %q; write absolute paths", cut(s))
}

func checkHost(s string) string {
	if s == "" || len(s) > 255 || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		return fmt.Sprintf("has %q; write host names or addresses", cut(s))
	}
	return ""
}

func checkEach(ss []string, check func(string) string) string {
	for _, s := range ss {
		if msg := check(s); msg != "" {
			return msg
		}
	}
	return ""
}

func checkPythonMin(s string) string {
	if v, ok := parseVersion(s); !ok || v[0] != 3 || v[1] > 1000 {
		return fmt.Sprintf(`is %q; write major and minor version, such as "3.11"`, cut(s))
	}
	return ""
}

func checkSymbol(s string) string {
	if !symbolRE.MatchString(s) || len(s) > 255 {
		return fmt.Sprintf("is %q; write the name of a function: letters, digits and underscores", cut(s))
	}
	return ""
}

func checkModule(s string) string {
	if !moduleRE.MatchString(s) || len(s) > 255 {
		return fmt.Sprintf("is %q; write the name of a Python module as import takes it, without .py and slashes", cut(s))
	}
	return ""
}

func checkSHA256(s string) string {
	if !sha256RE.MatchString(s) {
		return fmt.Sprintf("is %q; write the 64 hexadecimal digits that sha256sum prints", cut(s))
	}
	return ""
}

func checkCommand(ss []string) string {
	if len(ss) == 0 || ss[0] == "" {
		return "is empty; write the program and its arguments"
	}
	for _, s := range ss {
		if strings.ContainsRune(s, 0) {
			return "has an argument with a zero byte; remove it"
		}
	}
	return ""
}

func checkEnvName(s string) string {
	if !symbolRE.MatchString(s) {
		return fmt.Sprintf("has %q; write names of environment variables", cut(s))
	}
	return ""
}

// templateFields are what the original fills into a socket template.
var templateFields = []string{"plugin", "plugin_id", "name", "id", "pid", "worker_id", "run_id", "instance"}

// checkTemplate checks the original's socket template, which nothing is made of.
func checkTemplate(s string) string {
	if msg := checkPath(s); msg != "" || len(s) > 256 {
		return fmt.Sprintf("is %q; it is not used, remove it", cut(s))
	}
	if slices.Contains(strings.Split(s, "/"), "..") {
		return fmt.Sprintf("is %q; it must not lead upwards, and is not used: remove it", cut(s))
	}
	for _, f := range templateRE.FindAllString(s, -1) {
		if !slices.Contains(templateFields, f[1:len(f)-1]) {
			return fmt.Sprintf("has the unknown field %s; it is not used, remove it", cut(f))
		}
	}
	return ""
}

// plain turns TOML values into what JSON can carry: times become text. It returns
// what is wrong with a value that JSON has not.
func plain(v any) (any, string) {
	switch v := v.(type) {
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			c, bad := plain(e)
			if bad != "" {
				return nil, bad
			}
			out[k] = c
		}
		return out, ""
	case []any:
		out := make([]any, len(v))
		for i, e := range v {
			c, bad := plain(e)
			if bad != "" {
				return nil, bad
			}
			out[i] = c
		}
		return out, ""
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, fmt.Sprintf("holds %v, which JSON cannot carry; write a finite number or a string", v)
		}
		return v, ""
	case time.Time:
		return v.Format(time.RFC3339Nano), ""
	case toml.LocalDate:
		return v.String(), ""
	case toml.LocalTime:
		return v.String(), ""
	case toml.LocalDateTime:
		return v.String(), ""
	}
	return v, ""
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "true or false"
	case int64:
		return "a whole number"
	case float64:
		return "a number"
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

func cut(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
