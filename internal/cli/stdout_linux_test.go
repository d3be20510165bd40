//go:build cgo && linux

package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// noisyC prints through C's own buffer and past it, whenever it is called.
const noisyC = `
#include <stdio.h>
#include <unistd.h>
#include "rollout_plugin.h"

static void noise(void)
{
    printf("noise of printf\n");
    fflush(stdout);
    if (write(1, "noise of write\n", 15) != 15)
        _exit(9);
}
static int32_t call(const uint8_t *m, size_t ml, const uint8_t *p, size_t pl, struct rollout_buf *out)
{
    (void)m, (void)ml;
    noise();
    return rollout_reply(out, p, pl);
}
static const struct rollout_plugin_v1 table = {1, "noisy", call, rollout_free};
const struct rollout_plugin_v1 *rollout_plugin_factory(void)
{
    noise();
    return &table;
}
`

// noisyPython prints past Python's own streams and from a child.
const noisyPython = `
import os

def noise():
    os.write(1, b"noise of os.write\n")
    os.system("echo noise of a child")

class Noisy:
    preflight = staticmethod(noise)

    def call(self, method, payload):
        noise()
        return payload

def create_plugin():
    return Noisy()
`

// noisyPlugins writes both and returns their manifests by the noise they make.
func noisyPlugins(t *testing.T) map[string][]string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	manifest := func(name, rest string) string {
		return "name = \"" + name + "\"\nversion = \"1.0.0\"\nkind = \"custom\"\ntrait_id = \"rollout.v1.Custom\"\n" + rest
	}
	files := map[string]string{
		"c/noisy.c":                  noisyC,
		"c/rollout-plugin.toml":      manifest("noisy-c", "mode = \"so\"\n[entry.so]\npath = \"noisy.so\"\nsymbol = \"rollout_plugin_factory\"\n"),
		"python/noisy.py":            noisyPython,
		"python/rollout-plugin.toml": manifest("noisy-python", "mode = \"python\"\n[entry.python]\nmodule = \"noisy\"\nfactory = \"create_plugin\"\n"),
	}
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cc := exec.Command("cc", "-shared", "-fPIC", "-I", filepath.Join(root, "include"), "-o", filepath.Join(dir, "c", "noisy.so"), filepath.Join(dir, "c", "noisy.c"))
	if out, err := cc.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return map[string][]string{
		filepath.Join(dir, "c", "rollout-plugin.toml"):      {"noise of printf", "noise of write"},
		filepath.Join(dir, "python", "rollout-plugin.toml"): {"noise of os.write", "noise of a child"},
	}
}

// TestDescriptor1IsNotThePluginsToDamage loads plugins that write to descriptor 1
// past everything that the host sees: a worker's events and a call's result stay
// whole, and the noise is on stderr.
func TestDescriptor1IsNotThePluginsToDamage(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	plugins := noisyPlugins(t)
	for manifest, noise := range plugins {
		cmd := exec.Command(exe, "plugin", "call", manifest, "echo")
		cmd.Env = append(os.Environ(), childEnv+"=rollout")
		cmd.Stdin = strings.NewReader("payload")
		var stderr strings.Builder
		cmd.Stderr = &stderr
		if out, err := cmd.Output(); err != nil || string(out) != "payload" {
			t.Errorf("plugin call %s printed %q, %v\n%s", manifest, out, err, stderr.String())
		}
		wantNoise(t, "plugin call", stderr.String(), noise)
	}

	s := newSite(t)
	var args []string
	for manifest := range plugins {
		args = append(args, "--plugin", manifest)
	}
	c := s.child("w", args...)
	for ready := 1; ; ready++ {
		if ev := s.coord.await(core.TopicWorkerState, ready); ev.Attrs["to"] == string(core.StateReady) {
			break
		}
	}
	c.signal(t, syscall.SIGTERM)
	if err := c.cmd.Wait(); err != nil {
		t.Errorf("the worker ends with %v:\n%s", err, c.stderr.String())
	}
	loaded := 0
	for _, ev := range c.events(t) { // fails for a line that is no event
		if ev.Topic == core.TopicPluginLoaded {
			loaded++
		}
	}
	if loaded != len(plugins) {
		t.Errorf("%d of %d plugins were loaded:\n%s", loaded, len(plugins), c.stderr.String())
	}
	for _, noise := range plugins {
		wantNoise(t, "the worker", c.stderr.String(), noise)
	}
}

func wantNoise(t *testing.T, what, stderr string, noise []string) {
	t.Helper()
	for _, line := range noise {
		if !strings.Contains(stderr, line) {
			t.Errorf("stderr of %s lacks %q:\n%s", what, line, stderr)
		}
	}
}
