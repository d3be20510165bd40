package pluginhost

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/pyembed"
)

// Python is an interpreter that plugins get which name none themselves.
type Python struct {
	Executable string // absolute, behind shims
	Version    string // such as "3.11"; with the patch level where the library was asked for
	Library    string // absolute, of the shared library; empty where it was not asked for
}

// ProbeSidecarPython finds the interpreter that Python sidecars get: the first
// python3 on the PATH that lookupEnv reads. Without one, or with one older than
// the SDK runs on, it fails with what to do.
func ProbeSidecarPython(ctx context.Context, lookupEnv func(string) (string, bool)) (Python, error) {
	const least = "3.11"
	py, err := (&pythons{}).find(ctx, "", lookupEnv)
	if err != nil {
		return Python{}, err
	}
	found := Python{Executable: py.Executable, Version: fmt.Sprintf("%d.%d", py.Version[0], py.Version[1])}
	if versionLess(py.Version, least) {
		return found, core.Errorf("sidecar: find python", core.CodeUnsupported, "%s is Python %s, and %s is needed", found.Executable, found.Version, least)
	}
	return found, nil
}

// ProbeEmbeddedPython finds the shared library that plugins of mode python get,
// without opening it.
func ProbeEmbeddedPython(ctx context.Context, lookupEnv func(string) (string, bool)) (Python, error) {
	path, _ := lookupEnv("PATH") // without one no python3 is found, and the error says so
	lib, err := (*pyembed.Finder)(nil).Find(ctx, pyembed.Request{SearchPath: path})
	return Python{Executable: lib.Executable, Version: lib.Version, Library: lib.Path}, err
}

// ProbeLandlock returns the version of Landlock that the kernel offers.
func ProbeLandlock() (int, error) { return llsys.LandlockGetABIVersion() }

// probeMemoryMiB is the memory limit that the trial asks for, to learn how one is kept.
const probeMemoryMiB = 64

// probeTimeout bounds the trial of [ProbeContainment].
const probeTimeout = 30 * time.Second

// ProbeContainment starts a program that does nothing as a sidecar is started, with
// a memory limit and without a network, and tells what held it. launcher is
// [Config.Launcher]. Nothing is left behind.
func ProbeContainment(ctx context.Context, launcher []string) (_ core.Containment, err error) {
	const op = "probe containment"
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	program, err := lookPath("true", systemPath)
	if err != nil {
		return core.Containment{}, core.Wrap(op, core.CodeNotFound, err)
	}
	dir, err := os.MkdirTemp("", "rollout-probe-")
	if err != nil {
		return core.Containment{}, core.Wrap(op, core.CodeUnavailable, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	m := core.Manifest{Name: "probe", Dir: dir}
	m.Runtime.MemoryMiB = probeMemoryMiB
	env := hostEnv{
		emit:      func(core.EventLevel, string) {},
		dataDir:   dir,
		runRoot:   filepath.Join(dir, "sidecars"),
		sdkDir:    dir,
		launcher:  launcher,
		lookupEnv: func(string) (string, bool) { return "", false },
	}
	p, err := spawn(ctx, m, env, spawnOptions{cmd: command{exe: program, argv: []string{program}}})
	if err != nil {
		return core.Containment{}, core.WithOp(op, err)
	}
	p.finish(ctx, probeTimeout)
	return p.contain, nil
}
