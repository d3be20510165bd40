package pluginhost

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/pelletier/go-toml/v2"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// ManifestName is the file name of a manifest.
const ManifestName = "rollout-plugin.toml"

// maxManifest bounds a manifest file in bytes.
const maxManifest = 1 << 20

// ReadManifest reads, checks and completes the manifest at path, which may also
// be its directory. Every broken rule is reported at once as [core.Violations]
// under [core.CodeConfigInvalid]; a file that cannot be read is
// [core.CodeNotFound]. lookupEnv gives the worker's environment, in which
// PYTHONPATH leads to modules outside the manifest's directory; nil is
// [os.LookupEnv].
func ReadManifest(path string, lookupEnv func(string) (string, bool)) (core.Manifest, error) {
	const op = "read manifest"
	if lookupEnv == nil {
		lookupEnv = os.LookupEnv
	}
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		path = filepath.Join(path, ManifestName)
	}
	data, err := readRegular(path, maxManifest)
	if err != nil {
		return core.Manifest{}, core.Wrap(op, core.CodeNotFound, err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return core.Manifest{}, core.Wrap(op, core.CodeNotFound, err)
	}
	m, vs := parseManifest(data, path)
	if len(vs) > 0 {
		return core.Manifest{}, vs.Err(op)
	}
	m.Path, m.Dir = abs, filepath.Dir(abs)
	lines := keyLines(data)
	vs = append(resolvePaths(&m, path, lines), checkConfig(m, path, lines)...)
	if len(vs) > 0 {
		return core.Manifest{}, vs.Err(op)
	}
	m.Digest, err = digest(m, data, lookupEnv)
	return m, core.Wrap(op, core.CodeNotFound, err)
}

// readRegular reads a regular file of at most limit bytes. A pipe or device named
// by mistake is refused instead of waited for.
func readRegular(path string, limit int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, err
}

// parseManifest turns the text of a manifest into its value without looking at
// any other file. Paths stay as written. file names it in violations.
func parseManifest(data []byte, file string) (core.Manifest, core.Violations) {
	p := &manifestParser{file: file, m: core.Manifest{
		Runtime: core.Runtime{Concurrency: 1, CallTimeout: defaultCallTimeout, StartTimeout: defaultStartTimeout},
	}}
	var root map[string]any
	if err := toml.Unmarshal(data, &root); err != nil {
		p.syntax(err)
		return core.Manifest{}, p.vs
	}
	p.lines = keyLines(data)
	p.tables(root)
	p.required()
	p.entries()
	slices.SortStableFunc(p.vs, func(a, b core.Violation) int { return a.Line - b.Line })
	return p.m, p.vs
}

// manifestParser collects a manifest and everything wrong with it.
type manifestParser struct {
	file  string
	lines map[string]int
	m     core.Manifest
	vs    core.Violations
	seen  map[string]string // canonical key -> key as written
}

func (p *manifestParser) bad(key, format string, args ...any) {
	p.vs = append(p.vs, core.Violation{File: p.file, Line: lineOf(p.lines, key), Key: key, Msg: fmt.Sprintf(format, args...)})
}

// lineOf returns the line of a key, or of the nearest table above it.
func lineOf(lines map[string]int, key string) int {
	for {
		if n, ok := lines[key]; ok {
			return n
		}
		i := strings.LastIndexByte(key, '.')
		if i < 0 {
			return 1
		}
		key = key[:i]
	}
}

func (p *manifestParser) syntax(err error) {
	v := core.Violation{File: p.file, Line: 1, Msg: "not valid TOML: " + strings.TrimPrefix(err.Error(), "toml: ")}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		v.Line, _ = de.Position()
		v.Key = strings.Join(de.Key(), ".")
	}
	p.vs = append(p.vs, v)
}

// tables walks the root table and, in the nested form, the table plugin in it.
func (p *manifestParser) tables(root map[string]any) {
	p.seen = make(map[string]string)
	if nested, ok := root["plugin"].(map[string]any); ok {
		p.walk("plugin.", "", nested)
	} else if v, ok := root["plugin"]; ok {
		p.bad("plugin", "is %s; make it a table [plugin], or write its keys at the top", typeName(v))
	}
	rest := maps.Clone(root)
	delete(rest, "plugin")
	p.walk("", "", rest)
}

// walk sets the keys of one table. at is where it stands in the file, name its
// canonical name; both end with a dot unless empty.
func (p *manifestParser) walk(at, name string, table map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(table)) {
		written, key, v := at+k, canonical(name+k), table[k]
		if sub, ok := v.(map[string]any); ok && subtables[key] {
			p.walk(written+".", key+".", sub)
			continue
		}
		set, known := manifestKeys[key]
		if !known {
			p.unknown(written, key)
			continue
		}
		if other, twice := p.seen[key]; twice {
			p.bad(written, "is set already as %s; keep one of the two", other)
			continue
		}
		p.seen[key] = written
		if msg := set(p, v); msg != "" {
			p.bad(written, "%s", msg)
		}
	}
}

func (p *manifestParser) unknown(written, key string) {
	known := slices.Sorted(maps.Keys(manifestKeys))
	for t := range subtables {
		known = append(known, t)
	}
	slices.Sort(known)
	if near := nearest(key, known); near != "" {
		p.bad(written, "is not a key of a manifest; did you mean %s", near)
		return
	}
	p.bad(written, "is not a key of a manifest; remove it, or move it into [config]")
}

// required reports the keys that every manifest has.
func (p *manifestParser) required() {
	for _, key := range []string{"name", "version", "kind", "mode"} {
		if _, ok := p.seen[key]; !ok {
			p.vs = append(p.vs, core.Violation{File: p.file, Line: 1, Key: key, Msg: "is missing; " + requiredHelp[key]})
		}
	}
}

var requiredHelp = map[string]string{
	"name":    "give the plugin a name of a-z, 0-9 and dashes",
	"version": `set it, such as version = "0.1.0"`,
	"kind":    "set it to one of " + kindList(),
	"mode":    "set it to so, python or sidecar",
}

// entries checks that the entry table is the mode's own.
func (p *manifestParser) entries() {
	want := map[core.PluginMode][]string{
		core.ModeSO:      {"entry.so.path"},
		core.ModePython:  {"entry.python.module"},
		core.ModeSidecar: {"entry.sidecar.command"},
	}[p.m.Mode]
	if want == nil {
		return
	}
	prefix := "entry." + string(p.m.Mode) + "."
	for _, key := range slices.Sorted(maps.Keys(p.seen)) {
		if strings.HasPrefix(key, "entry.") && !strings.HasPrefix(key, prefix) {
			p.bad(p.seen[key], "does not belong to mode %s; remove it, or change the mode", p.m.Mode)
		}
	}
	for _, key := range want {
		if _, ok := p.seen[key]; !ok && !p.failed(key) {
			p.bad(key, "is missing; mode %s needs it", p.m.Mode)
		}
	}
	if p.m.Isolated && p.m.Mode != core.ModeSO {
		p.bad(p.seen["isolation"], "is for mode so only; a sidecar is a process of its own anyway, and python shares the worker's")
	}
	p.defaults()
}

func (p *manifestParser) failed(key string) bool {
	for _, v := range p.vs {
		if canonical(strings.TrimPrefix(v.Key, "plugin.")) == key {
			return true
		}
	}
	return false
}

// defaults fills in what depends on other keys.
func (p *manifestParser) defaults() {
	m := &p.m
	switch {
	case m.Mode == core.ModeSO && m.SO.Symbol == "":
		m.SO.Symbol = "rollout_plugin_factory"
	case m.Mode == core.ModePython && m.Python.Factory == "":
		m.Python.Factory = "create_plugin"
	case m.Mode == core.ModeSidecar && m.Sidecar.Protocol == "":
		m.Sidecar.Protocol = core.ProtocolGRPC
		if len(m.Sidecar.Command) > 0 && isPython(m.Sidecar.Command[0]) {
			m.Sidecar.Protocol = core.ProtocolFramed
		}
	}
}

func isPython(program string) bool {
	return strings.HasPrefix(filepath.Base(program), "python")
}

// checkManifest refuses a manifest that was not made by [ReadManifest] and breaks
// a rule that the host relies on.
func checkManifest(m core.Manifest) error {
	var vs core.Violations
	if msg := checkName(m.Name); msg != "" {
		vs = append(vs, core.Violation{File: m.Path, Key: "name", Msg: msg})
	}
	if m.Version == "" {
		vs = append(vs, core.Violation{File: m.Path, Key: "version", Msg: "is missing"})
	}
	switch m.Mode {
	case core.ModeSO, core.ModePython, core.ModeSidecar:
	default:
		vs = append(vs, core.Violation{File: m.Path, Key: "mode", Msg: fmt.Sprintf("%q is not so, python or sidecar", m.Mode)})
	}
	if !filepath.IsAbs(m.Dir) {
		vs = append(vs, core.Violation{File: m.Path, Key: "Dir", Msg: "must be absolute"})
	}
	return append(vs, checkConfig(m, m.Path, nil)...).Err("check manifest")
}

// keyLines returns the line of every key and table of a TOML text.
func keyLines(data []byte) map[string]int {
	w := lineWalker{lines: make(map[string]int)}
	w.walk(bytes.Clone(data))
	return w.lines
}
