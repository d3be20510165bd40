package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/launch"
)

// systemPath is the PATH of every sidecar.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// systemRead is what every sidecar may read and execute.
var systemRead = [...]string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/proc", "/sys", "/nix/store"}

// systemDevices is what every sidecar may read and write of /dev.
var systemDevices = [...]string{"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}

// command is a sidecar's command after the host has resolved it.
type command struct {
	exe  string   // absolute
	argv []string // as the manifest has it, with the program first
	read []string // what the program needs beyond the system's paths
}

// resolveCommand finds the program of a sidecar: python3 through the manifest's
// interpreter or the worker's PATH to the real executable, a name with a slash
// from the manifest's directory, any other name on the worker's PATH.
func resolveCommand(ctx context.Context, m core.Manifest, env hostEnv) (command, error) {
	argv := m.Sidecar.Command
	if len(argv) == 0 {
		return command{}, core.Errorf("sidecar: resolve command", core.CodeConfigInvalid, "%s: entry.sidecar.command is empty", m.Path)
	}
	if argv[0] == "python3" {
		py, err := env.pythons.find(ctx, m.Runtime.Interpreter, env.lookupEnv)
		if err == nil {
			err = py.check(m)
		}
		// Python finds its installation by argv[0].
		return command{exe: py.Executable, argv: append([]string{py.Executable}, argv[1:]...), read: py.read()}, err
	}
	exe := argv[0]
	if strings.ContainsRune(exe, '/') {
		if !filepath.IsAbs(exe) {
			exe = filepath.Join(m.Dir, exe)
		}
	} else {
		path, _ := env.lookupEnv("PATH")
		found, err := lookPath(exe, path)
		if err != nil {
			return command{}, core.Errorf("sidecar: resolve command", core.CodeNotFound, "%s: entry.sidecar.command: %w", m.Path, err)
		}
		exe = found
	}
	st, err := os.Stat(exe)
	switch {
	case err != nil:
		return command{}, core.Errorf("sidecar: resolve command", core.CodeNotFound, "%s: entry.sidecar.command: %w", m.Path, err)
	case st.IsDir() || st.Mode()&0o111 == 0:
		return command{}, core.Errorf("sidecar: resolve command", core.CodeConfigInvalid, "%s: entry.sidecar.command: %s is not executable; set its x bit", m.Path, exe)
	}
	return command{exe: exe, argv: argv, read: []string{exe}}, nil
}

// lookPath finds a program on a PATH that is not this process's own.
func lookPath(name, path string) (string, error) {
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		if full, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return full, nil
		}
	}
	return "", fmt.Errorf("program %q is not on PATH", name)
}

// interpreter describes one interpreter as it described itself.
type interpreter struct {
	Executable string   `json:"executable"` // the real one, behind shims
	Version    [2]int   `json:"version"`
	Prefixes   []string `json:"prefixes"` // of the installation and of a virtual environment
}

// pythonProbe makes an interpreter describe itself.
const pythonProbe = `import json,sys;print(json.dumps({"executable":sys.executable,"version":sys.version_info[:2],` +
	`"prefixes":sorted({sys.prefix,sys.base_prefix,sys.exec_prefix,sys.base_exec_prefix})}))`

// check compares the interpreter's version with what the manifest asks for.
func (p interpreter) check(m core.Manifest) error {
	least := m.Runtime.PythonMin
	if slices.Contains(m.Sidecar.Command, "rollout_plugin") {
		least = maxVersion(least, "3.11")
	}
	if least == "" || !versionLess(p.Version, least) {
		return nil
	}
	return core.Errorf("sidecar: find python", core.CodeConfigInvalid, "%s: %s is Python %d.%d, the plugin needs %s; set runtime.interpreter", m.Path, p.Executable, p.Version[0], p.Version[1], least)
}

func (p interpreter) read() []string {
	return append([]string{p.Executable}, slices.DeleteFunc(slices.Clone(p.Prefixes), func(s string) bool { return s == "" || s == "/" })...)
}

// parseVersion reads "3.11"; what the manifest's check has let pass always parses.
func parseVersion(s string) (v [2]int, ok bool) {
	major, minor, found := strings.Cut(s, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	return [2]int{a, b}, found && err1 == nil && err2 == nil && a >= 0 && b >= 0
}

func versionLess(v [2]int, least string) bool {
	l, ok := parseVersion(least)
	return ok && (v[0] < l[0] || v[0] == l[0] && v[1] < l[1])
}

func maxVersion(a, b string) string {
	if v, ok := parseVersion(a); ok && !versionLess(v, b) {
		return a
	}
	return b
}

// pythons asks interpreters to describe themselves, once each as long as the file
// stays the same.
type pythons struct {
	mu    sync.Mutex // guards known; not held while an interpreter runs
	known map[pythonKey]interpreter
}

type pythonKey struct {
	path  string
	size  int64
	mtime time.Time
	env   string // what a shim decides by
}

// probePatience bounds the question to one interpreter.
const probePatience = 20 * time.Second

// find returns the interpreter at that path, or python3 on the worker's PATH.
func (ps *pythons) find(ctx context.Context, named string, lookupEnv func(string) (string, bool)) (interpreter, error) {
	const op = "sidecar: find python"
	path := named
	envPath, _ := lookupEnv("PATH")
	if path == "" {
		found, err := lookPath("python3", envPath)
		if err != nil {
			return interpreter{}, core.Errorf(op, core.CodeNotFound, "%w; install Python 3.11 or newer, or set runtime.interpreter", err)
		}
		path = found
	}
	st, err := os.Stat(path)
	if err != nil {
		return interpreter{}, core.Errorf(op, core.CodeNotFound, "interpreter: %w", err)
	}
	key := pythonKey{path, st.Size(), st.ModTime(), envPath}
	ps.mu.Lock()
	py, ok := ps.known[key]
	ps.mu.Unlock()
	if ok {
		return py, nil
	}
	if py, err = askPython(ctx, path, lookupEnv); err != nil {
		return interpreter{}, core.Errorf(op, core.CodeConfigInvalid, "%s is no working Python interpreter: %w", path, err)
	}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.known == nil {
		ps.known = make(map[pythonKey]interpreter)
	}
	ps.known[key] = py
	return py, nil
}

func askPython(ctx context.Context, path string, lookupEnv func(string) (string, bool)) (interpreter, error) {
	ctx, cancel := context.WithTimeout(ctx, probePatience)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, "-I", "-c", pythonProbe)
	cmd.WaitDelay = time.Second
	cmd.Env = []string{"LANG=C.UTF-8"}
	for _, name := range []string{"PATH", "HOME", "PYENV_ROOT", "PYENV_VERSION", "ASDF_DATA_DIR", "ASDF_DIR"} {
		if v, ok := lookupEnv(name); ok {
			cmd.Env = append(cmd.Env, name+"="+v)
		}
	}
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) && len(exit.Stderr) > 0 {
			err = fmt.Errorf("%w: %s", err, strings.TrimSpace(string(exit.Stderr[:min(len(exit.Stderr), 500)])))
		}
		return interpreter{}, err
	}
	var py interpreter
	if err := json.Unmarshal(out, &py); err != nil {
		return interpreter{}, fmt.Errorf("it answered %q: %w", string(out[:min(len(out), 100)]), err)
	}
	if !filepath.IsAbs(py.Executable) {
		return interpreter{}, fmt.Errorf("it does not know its own path, but %q", py.Executable)
	}
	return py, nil
}

// sidecarEnviron is the whole environment of a sidecar: what the manifest lets
// through, then a fixed set that stands above it.
func sidecarEnviron(m core.Manifest, env hostEnv, dir *runDir, more []string) []string {
	vars := make(map[string]string)
	for _, name := range m.Sidecar.EnvAllow {
		if v, ok := env.lookupEnv(name); ok && !strings.HasPrefix(name, "ROLLOUT_SECRET_") {
			vars[name] = v
		}
	}
	paths := []string{m.Dir, env.sdkDir}
	if own, ok := env.lookupEnv("PYTHONPATH"); ok && own != "" {
		paths = append(paths, own)
	}
	for name, v := range map[string]string{
		"ROLLOUT_PLUGIN_NAME":        m.Name,
		"ROLLOUT_PLUGIN_VERSION":     m.Version,
		"ROLLOUT_PLUGIN_PROTOCOL":    string(m.Sidecar.Protocol),
		"ROLLOUT_PLUGIN_CONCURRENCY": strconv.Itoa(m.Runtime.Concurrency),
		"ROLLOUT_PLUGIN_RUN_DIR":     dir.path,
		"TMPDIR":                     dir.path,
		"LANG":                       "C.UTF-8",
		"PATH":                       systemPath,
		"PYTHONUNBUFFERED":           "1",
		"PYTHONPATH":                 strings.Join(paths, string(filepath.ListSeparator)),
	} {
		vars[name] = v
	}
	for _, kv := range more {
		name, v, _ := strings.Cut(kv, "=")
		vars[name] = v
	}
	out := make([]string, 0, len(vars))
	for name, v := range vars {
		out = append(out, name+"="+v)
	}
	slices.Sort(out)
	return out
}

// sidecarSpec tells the launcher what to start and what to allow.
func sidecarSpec(m core.Manifest, env hostEnv, opts spawnOptions, dir *runDir) launch.Spec {
	s := launch.Spec{
		Exe: opts.cmd.exe, Argv: opts.cmd.argv, Dir: m.Dir, Env: sidecarEnviron(m, env, dir, opts.env),
		Stream: opts.stream, Remove: dir.all(),
		Network: len(m.NetworkAllowlist) > 0, MemoryMiB: m.Runtime.MemoryMiB, Require: m.Sandbox.Require,
		Write:   []string{dir.path, dir.socket},
		Devices: systemDevices[:],
	}
	special := append(append([]string{m.Dir, env.sdkDir}, opts.cmd.read...), m.Sandbox.Read...)
	if own, ok := env.lookupEnv("PYTHONPATH"); ok {
		for _, dir := range filepath.SplitList(own) {
			if filepath.IsAbs(dir) {
				special = append(special, dir)
			}
		}
	}
	s.Read = append(systemRead[:len(systemRead):len(systemRead)], special...)
	if m.Runtime.GPU {
		s.Devices = append(s.Devices[:len(s.Devices):len(s.Devices)], gpuDevices()...)
	}
	for _, private := range env.privateDirs {
		if below := readable(private, s.Read); below != "" {
			s.Missing = append(s.Missing, fmt.Sprintf("keys readable: %s lies below %s, which the sidecar may read", private, below))
		}
	}
	return s
}

// readable returns the first of the paths that holds dir, after links.
func readable(dir string, paths []string) string {
	dir = realPath(dir)
	for _, p := range paths {
		if rel, err := filepath.Rel(realPath(p), dir); err == nil && rel != ".." && !strings.HasPrefix(rel, "../") {
			return p
		}
	}
	return ""
}

func realPath(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return filepath.Clean(path)
}

// gpuDevices lists what NVIDIA's driver and runtime open.
func gpuDevices() []string {
	var out []string
	for _, pattern := range []string{"/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/dri/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil { // only a malformed pattern fails
			continue
		}
		out = append(out, found...)
	}
	return out
}
