package pluginhost

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/jsonschema-go/jsonschema"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// resolvePaths makes a manifest's paths absolute and finds its files.
func resolvePaths(m *core.Manifest, file string, lines map[string]int) core.Violations {
	var vs core.Violations
	bad := func(key, format string, args ...any) {
		vs = append(vs, core.Violation{File: file, Line: lineOf(lines, writtenKey(lines, key)), Key: key, Msg: fmt.Sprintf(format, args...)})
	}
	if p := m.ConfigSchemaPath; p != "" {
		if !filepath.IsLocal(p) {
			bad("config_schema_path", "is %q; keep the schema below the manifest's directory", cut(p))
			m.ConfigSchemaPath = ""
		} else {
			m.ConfigSchemaPath = filepath.Join(m.Dir, p)
		}
	}
	if p := m.Runtime.Interpreter; p != "" && !filepath.IsAbs(p) {
		m.Runtime.Interpreter = filepath.Join(m.Dir, p)
	}
	for i, p := range m.Sandbox.Read {
		m.Sandbox.Read[i] = filepath.Clean(p)
	}
	if m.Mode == core.ModeSO {
		found, err := findSO(m.Dir, m.SO.Path)
		if err != nil {
			bad("entry.so.path", "%v; build the library or correct the path", err)
		}
		m.SO.Path = found
	}
	return vs
}

// writtenKey returns how a canonical key stands in the file.
func writtenKey(lines map[string]int, key string) string {
	for written := range lines {
		if canonical(strings.TrimPrefix(written, "plugin.")) == key {
			return written
		}
	}
	return key
}

// soExtension is the platform's extension of shared libraries.
const soExtension = ".so"

// findSO returns the absolute path of a library. One that is absent as written is
// tried with the platform's extension instead of its own, and added to it.
func findSO(dir, path string) (string, error) {
	if !filepath.IsAbs(path) {
		path = filepath.Join(dir, path)
	}
	for _, p := range []string{path, strings.TrimSuffix(path, filepath.Ext(path)) + soExtension, path + soExtension} {
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			return p, nil
		}
	}
	return path, fmt.Errorf("no library at %s", path)
}

// maxSchema bounds a configuration schema in bytes.
const maxSchema = 1 << 20

// checkConfig validates [config] against the plugin's own JSON Schema.
func checkConfig(m core.Manifest, file string, lines map[string]int) core.Violations {
	if m.ConfigSchemaPath == "" {
		return nil
	}
	violation := func(key string, err error) core.Violations {
		v := core.Violation{File: file, Key: key, Msg: err.Error()}
		if lines != nil {
			v.Line = lineOf(lines, writtenKey(lines, key))
		}
		return core.Violations{v}
	}
	schema, err := readSchema(m.Dir, m.ConfigSchemaPath)
	if err != nil {
		return violation("config_schema_path", err)
	}
	config, err := jsonValue(m.Config)
	if err == nil {
		err = schema.Validate(config)
	}
	if err != nil {
		return violation("config", fmt.Errorf("does not match %s: %w", filepath.Base(m.ConfigSchemaPath), err))
	}
	return nil
}

// readSchema reads and compiles a JSON Schema below dir, links included. It may
// refer to itself, never to other documents.
func readSchema(dir, path string) (_ *jsonschema.Resolved, err error) {
	defer func() {
		if r := recover(); r != nil { // the library must not end a worker
			err = fmt.Errorf("%s is no usable JSON Schema: %v", filepath.Base(path), r)
		}
	}()
	rel, err := filepath.Rel(dir, path)
	if err != nil {
		return nil, err
	}
	b, err := readBelow(dir, rel)
	if err != nil {
		return nil, fmt.Errorf("cannot be read: %w", err)
	}
	var s jsonschema.Schema
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("%s is no JSON Schema: %w", rel, err)
	}
	r, err := s.Resolve(nil)
	if err != nil {
		return nil, fmt.Errorf("%s is no usable JSON Schema: %w", rel, err)
	}
	return r, nil
}

// readBelow reads a file that must lie below dir, wherever its links lead.
func readBelow(dir, rel string) (_ []byte, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	st, err := root.Stat(rel)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxSchema {
		return nil, fmt.Errorf("%s is no regular file of at most %d bytes", rel, maxSchema)
	}
	return root.ReadFile(rel)
}

// jsonValue returns a configuration as JSON decodes it: an object, never nil.
func jsonValue(config map[string]any) (any, error) {
	b, err := configJSON(config)
	if err != nil {
		return nil, err
	}
	var v any
	return v, json.Unmarshal(b, &v)
}

// pluginFile is one file that a plugin consists of.
type pluginFile struct {
	name string // within the plugin, the same wherever that lies
	path string // absolute
}

// Files returns the absolute paths of the files that a plugin's digest covers and
// a change of which is worth a reload: the manifest, and the library, the Python
// module or package, or the arguments of the command that are files below the
// manifest's directory.
func Files(m core.Manifest, lookupEnv func(string) (string, bool)) ([]string, error) {
	if lookupEnv == nil {
		lookupEnv = os.LookupEnv
	}
	files, err := ownFiles(m, lookupEnv)
	out := []string{m.Path}
	for _, f := range files {
		out = append(out, f.path)
	}
	return out, core.Wrap("plugin files", core.CodeNotFound, err)
}

func ownFiles(m core.Manifest, lookupEnv func(string) (string, bool)) ([]pluginFile, error) {
	switch m.Mode {
	case core.ModeSO:
		return []pluginFile{{filepath.Base(m.SO.Path), m.SO.Path}}, nil
	case core.ModePython:
		return moduleFiles(m, m.Python.Module, lookupEnv)
	}
	var files []pluginFile
	for _, arg := range m.Sidecar.Command {
		path := arg
		if !filepath.IsAbs(path) {
			path = filepath.Join(m.Dir, path)
		}
		rel, err := filepath.Rel(m.Dir, path)
		if err != nil || !filepath.IsLocal(rel) {
			continue
		}
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() {
			files = append(files, pluginFile{rel, path})
		}
	}
	if module := commandModule(m.Sidecar.Command); module != "" {
		more, err := moduleFiles(m, module, lookupEnv)
		if err != nil {
			return nil, err
		}
		files = append(files, more...)
	}
	return files, nil
}

// commandModule returns M of "-m M", or of "-m rollout_plugin run M[:FACTORY]".
func commandModule(argv []string) string {
	i := slices.Index(argv, "-m")
	if i < 1 || i+1 >= len(argv) || !isPython(argv[0]) {
		return ""
	}
	module := argv[i+1]
	if rest := argv[i+2:]; module == "rollout_plugin" && len(rest) >= 2 && rest[0] == "run" {
		module, _, _ = strings.Cut(rest[1], ":")
	}
	if !moduleRE.MatchString(module) {
		return ""
	}
	return module
}

// moduleFiles returns the files of a module's top package, looked for as Python
// does: in the manifest's directory, then along PYTHONPATH. A module found in
// neither is part of the interpreter's installation and not of the plugin.
func moduleFiles(m core.Manifest, module string, lookupEnv func(string) (string, bool)) ([]pluginFile, error) {
	top, _, _ := strings.Cut(module, ".")
	dirs := []string{m.Dir}
	if more, ok := lookupEnv("PYTHONPATH"); ok {
		dirs = append(dirs, filepath.SplitList(more)...)
	}
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) {
			continue
		}
		if st, err := os.Stat(filepath.Join(dir, top)); err == nil && st.IsDir() {
			files, err := packageFiles(dir, top)
			if err != nil || len(files) > 0 {
				return files, err
			}
		}
		file := filepath.Join(dir, top+".py")
		if st, err := os.Stat(file); err == nil && st.Mode().IsRegular() {
			return []pluginFile{{top + ".py", file}}, nil
		}
	}
	return nil, nil
}

// maxPackageFiles bounds what one plugin may consist of.
const maxPackageFiles = 10000

func packageFiles(dir, top string) ([]pluginFile, error) {
	var files []pluginFile
	err := filepath.WalkDir(filepath.Join(dir, top), func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "__pycache__":
			return fs.SkipDir
		case !d.Type().IsRegular() || filepath.Ext(path) != ".py":
			return nil
		case len(files) == maxPackageFiles:
			return fmt.Errorf("package %s has more than %d files", top, maxPackageFiles)
		}
		rel, err := filepath.Rel(dir, path)
		files = append(files, pluginFile{rel, path})
		return err
	})
	return files, err
}

// digest returns the BLAKE3-256 over the manifest's text and the plugin's files,
// each with its name and length, in order of name.
func digest(m core.Manifest, manifest []byte, lookupEnv func(string) (string, bool)) (string, error) {
	files, err := ownFiles(m, lookupEnv)
	if err != nil {
		return "", err
	}
	slices.SortFunc(files, func(a, b pluginFile) int { return strings.Compare(a.name, b.name) })
	files = slices.Compact(files)
	h := core.NewContentHasher()
	add := func(name string, b []byte) error {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(b)))
		return writeAll(h, []byte(name), []byte{0}, n[:], b)
	}
	if err := add(ManifestName, manifest); err != nil {
		return "", err
	}
	for _, f := range files {
		b, err := os.ReadFile(f.path)
		if err == nil {
			err = add(f.name, b)
		}
		if err != nil {
			return "", err
		}
	}
	return h.ID().String(), nil
}
