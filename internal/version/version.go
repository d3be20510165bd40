// Package version tells which build of the project is running.
//
// The Makefile stamps version and commit through the linker. A program built by
// `go install` carries no stamp; what the Go toolchain recorded stands in.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Set once by the linker (-X), never written by the program.
var (
	version string
	commit  string
)

// Info names one build.
type Info struct {
	Version string `json:"version"` // tag or pseudo-version; "unknown" when nothing was recorded
	Commit  string `json:"commit"`  // full hash of the source tree; "unknown" when nothing was recorded
	Go      string `json:"go"`      // version of the Go toolchain, for example "go1.26.8"
}

// Get returns the identity of the running program.
func Get() Info {
	info := Info{Version: version, Commit: commit, Go: runtime.Version()}
	if build, ok := debug.ReadBuildInfo(); ok {
		info.fill(build)
	}
	if info.Version == "" {
		info.Version = "unknown"
	}
	if info.Commit == "" {
		info.Commit = "unknown"
	}
	return info
}

// fill takes from the toolchain's record what the linker did not stamp.
func (i *Info) fill(build *debug.BuildInfo) {
	if i.Version == "" && build.Main.Version != "(devel)" {
		i.Version = build.Main.Version
	}
	for _, setting := range build.Settings {
		if setting.Key == "vcs.revision" && i.Commit == "" {
			i.Commit = setting.Value
		}
	}
}

// String is the one line that --version prints after the program's name:
// "v0.1.0 (commit 1a2b..., go1.26.8)".
func (i Info) String() string {
	return fmt.Sprintf("%s (commit %s, %s)", i.Version, i.Commit, i.Go)
}
