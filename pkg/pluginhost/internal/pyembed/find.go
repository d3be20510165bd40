package pyembed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// op is the operation that errors of this package name.
const op = "python"

// minVersion is the oldest Python whose stable ABI has what the shim needs.
var minVersion = version{3, 11}

// probeTimeout bounds one interpreter's answer about itself.
const probeTimeout = 10 * time.Second

// Library is a libpython and the interpreter that named it.
type Library struct {
	Path       string   // absolute, of the shared library
	Executable string   // absolute, what sys.executable is to be
	Version    string   // such as "3.11.7"
	Site       []string // the interpreter's site-packages directories
}

// Request says which Python is wanted.
type Request struct {
	Interpreter string // absolute; empty: the first usable python3 of SearchPath
	SearchPath  string // the worker's PATH
	MinVersion  string // such as "3.12"; empty: any supported
}

// Finder remembers which library a request led to, as long as the interpreter's
// file stays the same. A nil Finder remembers nothing.
type Finder struct {
	mu    sync.Mutex // guards known; not held while an interpreter runs
	known map[Request]found
}

// found is a library and the interpreter's file that named it.
type found struct {
	lib   Library
	path  string
	mtime time.Time
	size  int64
}

// Find asks interpreters where their library is, so that shims of version managers
// and virtual environments are seen through. Without a usable one the error is
// [core.CodeUnsupported] and says what was wrong with each.
func (f *Finder) Find(ctx context.Context, r Request) (Library, error) {
	if f == nil {
		lib, _, err := find(ctx, r)
		return lib, err
	}
	f.mu.Lock()
	hit, ok := f.known[r]
	f.mu.Unlock()
	if ok {
		if info, err := os.Stat(hit.path); err == nil && info.ModTime().Equal(hit.mtime) && info.Size() == hit.size {
			return hit.lib, nil
		}
	}
	lib, path, err := find(ctx, r)
	if err != nil {
		return Library{}, err
	}
	if info, err := os.Stat(path); err == nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.known == nil {
			f.known = make(map[Request]found)
		}
		f.known[r] = found{lib: lib, path: path, mtime: info.ModTime(), size: info.Size()}
	}
	return lib, nil
}

// find returns the first usable library and the interpreter that named it.
func find(ctx context.Context, r Request) (Library, string, error) {
	least, err := leastVersion(r.MinVersion)
	if err != nil {
		return Library{}, "", err
	}
	candidates := candidates(r)
	var wrong []error
	for _, path := range candidates {
		lib, err := probe(ctx, path, least)
		if err == nil {
			return lib, path, nil
		}
		if ctx.Err() != nil {
			return Library{}, "", core.Wrap(op, core.CodeCanceled, ctx.Err())
		}
		wrong = append(wrong, fmt.Errorf("%s: %w", path, err))
	}
	if len(candidates) == 0 {
		wrong = append(wrong, errors.New("no python3 is on PATH"))
	}
	return Library{}, "", core.Errorf(op, core.CodeUnsupported,
		"no Python %v or newer with a shared library was found; install one, name it as runtime.interpreter, or use mode sidecar: %w",
		least, errors.Join(wrong...))
}

// leastVersion is what a plugin asks for, or the oldest supported.
func leastVersion(text string) (version, error) {
	if text == "" {
		return minVersion, nil
	}
	v, err := parseVersion(text)
	if err != nil {
		return version{}, core.Errorf(op, core.CodeConfigInvalid, "runtime.python_min: %w", err)
	}
	if v.less(minVersion) {
		return minVersion, nil
	}
	return v, nil
}

// candidates are the interpreters to ask, in order, each once.
func candidates(r Request) []string {
	if r.Interpreter != "" {
		return []string{r.Interpreter}
	}
	var found []string
	seen := make(map[string]bool)
	for _, dir := range filepath.SplitList(r.SearchPath) {
		path := filepath.Join(dir, "python3")
		info, err := os.Stat(path)
		if err != nil || info.IsDir() || info.Mode()&0o111 == 0 || !filepath.IsAbs(path) || seen[path] {
			continue
		}
		seen[path] = true
		found = append(found, path)
	}
	return found
}

// probeSource prints one line of JSON. It takes the working directory off sys.path
// before it imports anything. An interpreter whose environment is broken fails
// here rather than in this process, which a failed start would end.
const probeSource = `
import sys
sys.path[:] = [p for p in sys.path if p]
import json, site, sysconfig
get = sysconfig.get_config_var
print("rollout:" + json.dumps({
    "version": "%d.%d.%d" % sys.version_info[:3],
    "executable": sys.executable,
    "libdir": get("LIBDIR") or "",
    "multiarch": get("MULTIARCH") or "",
    "base": sys.base_exec_prefix,
    "library": get("INSTSONAME") or "",
    "free_threaded": bool(get("Py_GIL_DISABLED")),
    "site": site.getsitepackages() if hasattr(site, "getsitepackages") else [],
}))
`

// answer is what an interpreter says about itself.
type answer struct {
	Version      string   `json:"version"`
	Executable   string   `json:"executable"`
	LibDir       string   `json:"libdir"`
	MultiArch    string   `json:"multiarch"`
	Base         string   `json:"base"`
	Library      string   `json:"library"`
	FreeThreaded bool     `json:"free_threaded"`
	Site         []string `json:"site"`
}

func probe(ctx context.Context, path string, least version) (Library, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, path, "-c", probeSource)
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return Library{}, fmt.Errorf("%w: %s", err, lastLine(stderr.String()))
	}
	var a answer
	_, text, ok := strings.Cut(string(out), "rollout:")
	if !ok {
		return Library{}, fmt.Errorf("is no Python: it printed %.100q", out)
	}
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&a); err != nil {
		return Library{}, fmt.Errorf("is no Python: %w", err)
	}
	return a.check(least)
}

// check turns an answer into a library that exists and is new enough.
func (a answer) check(least version) (Library, error) {
	v, err := parseVersion(a.Version)
	switch {
	case err != nil:
		return Library{}, err
	case v.less(least):
		return Library{}, fmt.Errorf("is Python %s, and %v is needed", a.Version, least)
	case a.FreeThreaded:
		return Library{}, fmt.Errorf("Python %s is built without the global lock, which mode python relies on", a.Version)
	case !strings.Contains(a.Library, ".so"):
		return Library{}, fmt.Errorf("Python %s is built without a shared library", a.Version)
	}
	for _, dir := range []string{a.LibDir, filepath.Join(a.LibDir, a.MultiArch), filepath.Join(a.Base, "lib")} {
		path := filepath.Join(dir, a.Library)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
			return Library{Path: path, Executable: a.Executable, Version: a.Version, Site: a.Site}, nil
		}
	}
	return Library{}, fmt.Errorf("Python %s: its shared library %s is not in %s; install the package that holds it, such as libpython%d.%d",
		a.Version, a.Library, a.LibDir, v.major, v.minor)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// version is a Python version without its patch level, which never matters.
type version struct{ major, minor int }

func parseVersion(s string) (version, error) {
	major, rest, _ := strings.Cut(s, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err1 := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	if err1 != nil || err2 != nil || a < 0 || b < 0 {
		return version{}, fmt.Errorf("%q is not a Python version such as 3.11", s)
	}
	return version{a, b}, nil
}

func (v version) less(o version) bool {
	return v.major < o.major || v.major == o.major && v.minor < o.minor
}

func (v version) String() string { return fmt.Sprintf("%d.%d", v.major, v.minor) }
