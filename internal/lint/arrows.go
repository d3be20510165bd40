package lint

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// arrow is one line of the table: what the packages of a directory may import
// from this module. A name that ends in "/..." stands for the directory and
// everything below it, and the packages below it may then import each other.
type arrow struct {
	dir string
	may []string
	std bool // imports no other module except those in own
	own []string
	why string
}

// wire names the generated code, which only the rooms that speak it may import.
const wire = "proto/..."

// arrows is the direction of data through the house. The most specific line
// counts. Test files are free, except that they too import neither a program nor,
// outside the rooms that may, the generated code.
var arrows = []arrow{
	{dir: "pkg/core", std: true, own: []string{"github.com/oklog/ulid/v2", "github.com/zeebo/blake3"},
		why: "everyone imports core, so core imports nobody"},
	{dir: "pkg/core/...", may: []string{"pkg/core"}, std: true, own: []string{"github.com/oklog/ulid/v2", "github.com/zeebo/blake3"},
		why: "what lies below core is imported as widely as core"},
	{dir: "pkg/core/coretest/...", may: []string{"pkg/core"}, std: true,
		why: "a kit is imported by other projects and imposes no library on them"},
	{dir: "pkg/storage/...", may: []string{"pkg/core"},
		why: "the store is the lowest room: it knows keys and bytes, not who stores them"},
	{dir: "pkg/cloudlocal/...", may: []string{"pkg/core", "pkg/storage"},
		why: "queue, objects, secrets and hints of one machine stand on the store alone"},
	{dir: "pkg/transport/...", may: []string{"pkg/core", "internal/grpcerr", wire},
		why: "the wire carries core's values and knows neither where they are kept nor who runs them"},
	{dir: "pkg/pluginhost/...", may: []string{"pkg/core", "internal/grpcerr", "python/...", wire},
		why: "a plugin is hosted the same way whether a worker, a test or the command line asks"},
	{dir: "pkg/pluginsdk/...", may: []string{"pkg/core", "internal/grpcerr", wire},
		why: "plugin authors import the SDK and must not inherit a host"},
	{dir: "pkg/coordinator/...", may: []string{"pkg/core", "pkg/storage", "pkg/cloudlocal", "pkg/transport/...", "internal/events", "internal/config", "internal/version"},
		why: "the coordinator hosts no plugins"},
	{dir: "pkg/worker/...", may: []string{"pkg/core", "pkg/storage", "pkg/cloudlocal", "pkg/transport/...", "pkg/pluginhost/...", "internal/events", "internal/config", "internal/version"},
		why: "a worker talks to a coordinator over the wire only"},
	{dir: "internal/grpcerr/...", may: []string{"pkg/core", wire},
		why: "errors cross the wire in one place"},
	{dir: "internal/events/...", may: []string{"pkg/core"},
		why: "both programs tell what happened through core's events"},
	{dir: "internal/config/...", may: []string{"pkg/core"},
		why: "one schema serves every program and therefore depends on none"},
	{dir: "internal/version/...", std: true,
		why: "any program may ask which build it is"},
	{dir: "internal/sdnotify", std: true, own: []string{"golang.org/x/sys/unix"},
		why: "telling a service manager is one datagram"},
	{dir: "internal/lint/...", std: true,
		why: "the rules read the tree and do not depend on it"},
	{dir: "internal/cli/...", may: []string{"pkg/core", "pkg/storage", "pkg/cloudlocal/...", "pkg/transport/...", "pkg/pluginhost/...", "pkg/coordinator/...", "pkg/worker/...", "internal/events", "internal/config", "internal/sdnotify", "internal/version", "python/..."},
		why: "the command line wires the rooms together, so it sees them all and none sees it"},
	{dir: "cmd/...", may: []string{"internal/cli"},
		why: "a main hands over to code that tests can import"},
	{dir: "internal/smoke/...", may: []string{"pkg/core", "internal/version"},
		why: "the smoke driver sees what a user sees: programs, files and events"},
	{dir: "internal/pages", std: true,
		why: "the documentation is tried with the real programs, as a reader has them"},
	{dir: "internal/mainjob", std: true,
		why: "the main job is tried with the real programs, as a user has them"},
	{dir: "internal/bench/...", may: []string{"pkg/...", "internal/..."},
		why: "each row is measured at the room that promises it"},
	{dir: "internal/fuzzing/...", std: true,
		why: "the fuzz run starts the targets of all packages and imports none"},
	{dir: "failpoints/...", may: []string{"pkg/core", "pkg/core/coretest/...", "pkg/storage/..."},
		why: "the nested module drives the store with a library that fails where it is told to"},
	{dir: "examples/...", may: []string{"pkg/core", "pkg/cloudlocal", "pkg/coordinator", "pkg/pluginsdk", "pkg/storage/...", "pkg/worker"},
		why: "an example uses only what another project could import"},
	{dir: "proto/...",
		why: "generated code stands on protobuf and grpc alone"},
	{dir: "python/...", std: true,
		why: "the Python SDK is files; the package embeds them"},
	{dir: "scripts/...", std: true,
		why: "scripts are tried by tests that need nothing else"},
}

// covers reports whether a name of the table stands for the directory.
func covers(name, dir string) bool {
	if below, ok := strings.CutSuffix(name, "/..."); ok {
		return dir == below || strings.HasPrefix(dir, below+"/")
	}
	return dir == name
}

// arrowOf returns the most specific line for a directory, or nil.
func arrowOf(dir string) *arrow {
	var best *arrow
	for i := range arrows {
		a := &arrows[i]
		if covers(a.dir, dir) && (best == nil || len(strings.TrimSuffix(a.dir, "/...")) > len(strings.TrimSuffix(best.dir, "/...")) || !strings.HasSuffix(a.dir, "/...")) {
			best = a
		}
	}
	return best
}

// local turns an import path of this module into a directory.
func local(importPath string) (dir string, ok bool) {
	if importPath == modulePath {
		return ".", true
	}
	return strings.CutPrefix(importPath, modulePath+"/")
}

// eachImport calls visit for every import of every Go file, generated files included.
func (t *Tree) eachImport(visit func(f *File, line int, importPath string)) {
	for _, f := range t.Files {
		if f.AST == nil {
			continue
		}
		for _, spec := range f.AST.Imports {
			if name, err := strconv.Unquote(spec.Path.Value); err == nil {
				visit(f, t.Line(spec.Pos()), name)
			}
		}
	}
}

func checkArrows(t *Tree) []Finding {
	var found []Finding
	seen := map[string]bool{}
	t.eachImport(func(f *File, line int, name string) {
		dir := f.Dir()
		a := arrowOf(dir)
		if a == nil {
			if !seen[dir] {
				seen[dir] = true
				found = append(found, Finding{dir, 0, "the package has no line in the arrow table",
					"add one to arrows in internal/lint/arrows.go, with its reason"})
			}
			return
		}
		if what := a.breach(f, name); what != "" {
			found = append(found, Finding{f.Path, line, what,
				fmt.Sprintf("go through a lower room or move the code (%s)", a.why)})
		}
	})
	return found
}

// breach says what is wrong with a file's import, "" when the table allows it.
func (a *arrow) breach(f *File, name string) string {
	target, isLocal := local(name)
	switch {
	case !isLocal:
		if f.Test || !a.std || !strings.Contains(strings.SplitN(name, "/", 2)[0], ".") || slices.Contains(a.own, name) {
			return ""
		}
		return fmt.Sprintf("%s imports %s, but may import the standard library%s only", f.Dir(), name, orOwn(a.own))
	case covers("cmd/...", target):
		return fmt.Sprintf("%s imports the program %s", f.Dir(), target)
	case covers(wire, target) && !covers(wire, f.Dir()) && !slices.Contains(a.may, wire):
		return fmt.Sprintf("%s imports generated code (%s), which only the rooms on the wire may", f.Dir(), target)
	case f.Test, strings.HasSuffix(a.dir, "/...") && covers(a.dir, target):
		return ""
	case slices.ContainsFunc(a.may, func(m string) bool { return covers(m, target) }):
		return ""
	}
	return fmt.Sprintf("%s may not import %s", f.Dir(), target)
}

func orOwn(own []string) string {
	if len(own) == 0 {
		return ""
	}
	return " and " + strings.Join(own, ", ")
}

// home lists the modules that stay in few rooms. A module maps to the directories
// that may import it outside tests; none means tests only.
var home = map[string][]string{
	"go.etcd.io/bbolt":                  {"pkg/storage/...", "internal/bench/..."},
	"github.com/spf13/cobra":            {"internal/cli/..."},
	"github.com/quic-go/quic-go":        {"pkg/transport/...", "internal/bench/..."},
	"github.com/hashicorp/go-plugin":    {"pkg/pluginhost/...", "pkg/pluginsdk/...", "internal/bench/..."},
	"github.com/hashicorp/go-hclog":     {"pkg/pluginhost/...", "pkg/pluginsdk/...", "internal/bench/..."},
	"github.com/landlock-lsm":           {"pkg/pluginhost/..."},
	"github.com/NVIDIA/go-nvml":         {"pkg/cloudlocal/..."},
	"github.com/shirou/gopsutil":        {"pkg/cloudlocal/..."},
	"github.com/pelletier/go-toml":      {"internal/config/...", "pkg/pluginhost/...", "internal/cli/..."},
	"pgregory.net/rapid":                nil,
	"go.uber.org/goleak":                nil,
	"github.com/google/go-cmp":          nil,
	"github.com/anishathalye/porcupine": nil,
	"testing":                           {"pkg/core/coretest/...", "internal/bench/..."},
}

func checkModules(t *Tree) []Finding {
	var found []Finding
	t.eachImport(func(f *File, line int, name string) {
		for module, rooms := range home {
			if f.Test || name != module && !strings.HasPrefix(name, module+"/") {
				continue
			}
			if slices.ContainsFunc(rooms, func(room string) bool { return covers(room, f.Dir()) }) {
				continue
			}
			fix := "import it from a test file only"
			if len(rooms) > 0 {
				fix = "call the room that wraps it: " + strings.Join(rooms, ", ")
			}
			found = append(found, Finding{f.Path, line, fmt.Sprintf("%s is imported by %s", name, path.Clean(f.Dir())), fix})
		}
	})
	return found
}
