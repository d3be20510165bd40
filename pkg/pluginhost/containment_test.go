package pluginhost

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// evalIn runs a Python expression in the sample and returns its text, or the error.
func evalIn(h *Host, plugin, expr string) string {
	out, err := h.Call(context.Background(), plugin, "eval", []byte(expr))
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// enforces skips a test whose limit this machine cannot enforce.
func enforces(t *testing.T, info core.PluginInfo, what string) {
	t.Helper()
	if !slices.Contains(info.Containment.Enforced, what) {
		t.Skipf("SKIPPED: this machine does not enforce %s: %v", what, info.Containment.Missing)
	}
}

func TestFilesOfASidecar(t *testing.T) {
	h, _ := testHost(t, nil)
	secret := writeFiles(t, map[string]string{"key.pem": "canary"})
	model := writeFiles(t, map[string]string{"weights": "numbers"})
	m := sampleManifest(t, "p")
	m.Sandbox.Read = []string{model}
	enforces(t, mustLoad(t, h, m), "landlock")
	for expr, want := range map[string]string{
		fmt.Sprintf("open(%q).read()", filepath.Join(secret, "key.pem")):                   "PermissionError",
		fmt.Sprintf("os.listdir(%q)", secret):                                              "PermissionError",
		fmt.Sprintf("open(%q).read()", filepath.Join(model, "weights")):                    "numbers",
		fmt.Sprintf("open(%q, 'w')", filepath.Join(model, "weights")):                      "PermissionError",
		fmt.Sprintf("open(%q, 'w')", filepath.Join(m.Dir, "new")):                          "PermissionError",
		"open('/etc/passwd').read()[:4]":                                                   "root",
		"open('/etc/rollout-test', 'w')":                                                   "PermissionError",
		"open(os.path.join(os.environ['TMPDIR'], 'x'), 'w').write('own')":                  "3",
		"os.mknod(os.path.join(os.environ['TMPDIR'], 'disk'), 0o060600, os.makedev(7, 0))": "PermissionError",
		fmt.Sprintf("open('/proc/%d/environ').read()", os.Getpid()):                        "PermissionError",
		fmt.Sprintf("os.kill(%d, 0)", os.Getpid()):                                         "PermissionError",
		"[(n, os.readlink('/proc/self/fd/' + n).partition(':')[0][:9].replace('socket', 'sock')) for n in os.listdir('/proc/self/fd') if os.path.lexists('/proc/self/fd/' + n)]": "[('0', '/dev/null'), ('1', 'pipe'), ('2', 'pipe'), ('3', 'sock')]",
	} {
		if got := evalIn(h, "p", expr); !strings.Contains(got, want) {
			t.Errorf("%s = %s, want %s", expr, got, want)
		}
	}
}

func TestNetworkOfASidecar(t *testing.T) {
	h, _ := testHost(t, nil)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	connect := fmt.Sprintf("__import__('socket').create_connection(('127.0.0.1', %d), 5).close()", l.Addr().(*net.TCPAddr).Port)
	off, on := sampleManifest(t, "off"), sampleManifest(t, "on")
	on.NetworkAllowlist = []string{"hub.example.org"}
	enforces(t, mustLoad(t, h, off), "network")
	if got := evalIn(h, "off", connect); !strings.Contains(got, "Error") {
		t.Errorf("without an allowlist: %s", got)
	}
	info := mustLoad(t, h, on)
	if !strings.Contains(strings.Join(info.Containment.Missing, "\n"), "not enforced per host") {
		t.Errorf("with an allowlist: %+v", info.Containment)
	}
	if got := evalIn(h, "on", connect); got != "None" {
		t.Errorf("with an allowlist: %s", got)
	}
	on.Name, on.Sandbox.Require = "required", true
	if _, err := h.Load(context.Background(), on); !core.IsCode(err, core.CodeFailedPrecondition) || !strings.Contains(err.Error(), "per host") {
		t.Errorf("an allowlist with require: %v", err)
	}
}

func TestKeysThatASidecarCouldRead(t *testing.T) {
	dir := writeFiles(t, map[string]string{"sample.py": samplePlugin})
	h, _ := testHost(t, func(c *Config) {
		c.DataDir = filepath.Join(dir, "data")
		c.PrivateDirs = []string{filepath.Join(dir, "tls")}
	})
	m := pythonManifest(dir, "p", "sample")
	info := mustLoad(t, h, m)
	if n := strings.Count(strings.Join(info.Containment.Missing, "\n"), "keys readable"); n != 2 {
		t.Errorf("containment: %+v", info.Containment)
	}
	m.Name, m.Sandbox.Require = "q", true
	if _, err := h.Load(context.Background(), m); !core.IsCode(err, core.CodeFailedPrecondition) || !strings.Contains(err.Error(), "keys readable") {
		t.Errorf("with require: %v", err)
	}
	bare, _ := testHost(t, func(c *Config) { c.Launcher = nil })
	if _, err := bare.Load(context.Background(), m); !core.IsCode(err, core.CodeFailedPrecondition) {
		t.Errorf("with require and no launcher: %v", err)
	}
}

// TestS7SecretsStayOutside plants a canary in the worker's environment and compares
// a sidecar's with the fixed set.
func TestS7SecretsStayOutside(t *testing.T) {
	vars := map[string]string{
		"PATH": os.Getenv("PATH"), "HOME": os.Getenv("HOME"), "PYENV_ROOT": os.Getenv("PYENV_ROOT"), "PYENV_VERSION": os.Getenv("PYENV_VERSION"),
		"AWS_SECRET_ACCESS_KEY": "canary", "ROLLOUT_SECRET_HF": "canary", "HF_HOME": "/models", "PYTHONPATH": "/own/modules",
	}
	h, rec := testHost(t, func(c *Config) {
		c.LookupEnv = func(name string) (string, bool) { v, ok := vars[name]; return v, ok && v != "" }
	})
	t.Setenv("PLANTED_IN_THE_PROCESS", "canary")
	m := sampleManifest(t, "p")
	m.Sidecar.EnvAllow = []string{"HF_HOME", "ROLLOUT_SECRET_HF", "ABSENT", "PATH"}
	mustLoad(t, h, m)
	got := strings.Split(mustCall(t, h, "p", "env", ""), "\n")
	var names []string
	for _, kv := range got {
		name, v, _ := strings.Cut(kv, "=")
		if name == "LC_CTYPE" { // CPython's own, where LANG=C.UTF-8 is coerced
			continue
		}
		names = append(names, name)
		if name == "PATH" && v != systemPath || name == "HF_HOME" && v != "/models" {
			t.Errorf("%s", kv)
		}
		if name == "PYTHONPATH" && v != m.Dir+":"+h.env.sdkDir+":/own/modules" {
			t.Errorf("%s", kv)
		}
	}
	want := []string{
		"HF_HOME", "LANG", "PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "ROLLOUT_PLUGIN_CONCURRENCY", "ROLLOUT_PLUGIN_FD", "ROLLOUT_PLUGIN_NAME",
		"ROLLOUT_PLUGIN_PROTOCOL", "ROLLOUT_PLUGIN_RUN_DIR", "ROLLOUT_PLUGIN_VERSION", "TMPDIR",
	}
	if !slices.Equal(names, want) {
		t.Errorf("variables are %v, want %v", names, want)
	}
	if seen := fmt.Sprint(got, rec.all(), h.Plugins()); strings.Contains(seen, "canary") {
		t.Errorf("the canary was seen: %s", seen)
	}
}

// TestS5Traversal offers paths that lead out of where they belong.
func TestS5Traversal(t *testing.T) {
	outside := writeFiles(t, map[string]string{"s.json": `{"type":"object"}`})
	for name, path := range map[string]string{
		"upwards": "../s.json", "absolute": filepath.Join(outside, "s.json"), "zero byte": "a\\u0000b", "deep": "a/../../s.json",
		"link": "link.json", "link in a directory": "linked/s.json", "long": strings.Repeat("x", 2000), "device": "null",
	} {
		dir := writeFiles(t, map[string]string{"m.py": "", ManifestName: fmt.Sprintf(
			"name = \"p\"\nversion = \"1\"\nkind = \"queue\"\nmode = \"python\"\nconfig_schema_path = \"%s\"\n[entry.python]\nmodule = \"m\"\n", path)})
		for link, target := range map[string]string{"link.json": filepath.Join(outside, "s.json"), "linked": outside, "null": "/dev/null"} {
			if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := ReadManifest(dir, nil); !core.IsCode(err, core.CodeConfigInvalid) || !strings.Contains(err.Error(), ":5: config_schema_path:") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"..", "../p", "a/b", "p\x00", "P", "ａ", strings.Repeat("a", 300)} {
		if msg := checkName(name); msg == "" {
			t.Errorf("name %q is accepted", name)
		}
	}
}

// TestR28Greedy lets a sidecar take all it can get: only it suffers.
func TestR28Greedy(t *testing.T) {
	h, rec := testHost(t, quickRestart)
	m := sampleManifest(t, "greedy")
	m.Runtime.MemoryMiB = 64
	info := mustLoad(t, h, m)
	mustLoad(t, h, sampleManifest(t, "well"))
	t.Logf("%+v", info.Containment)

	_, err := h.Call(context.Background(), "greedy", "eval", []byte("len(bytearray(400 << 20)) and __import__('time').sleep(60)"))
	if !core.IsCode(err, core.CodePluginCrashed) || !strings.Contains(err.Error(), "memory_mib") {
		t.Errorf("400 MiB: %v", err)
	}
	rec.wait(t, "restart", func(ev core.PluginEvent) bool { return ev.Topic == core.TopicPluginRestarted })
	for what, expr := range map[string]string{
		"100k files": "[open('/dev/null') for _ in range(100000)]",
		"disk":       "[open(os.path.join(os.environ['TMPDIR'], 'big'), 'wb').truncate(2 << 30)]",
	} {
		if got := evalIn(h, "greedy", expr); !strings.Contains(got, "Error") && !strings.Contains(got, "signal") {
			t.Errorf("%s: %s", what, got)
		}
	}
	mustCall(t, h, "well", "echo", "untouched")
}

// TestMemorySampled limits memory where no cgroup can be written.
func TestMemorySampled(t *testing.T) {
	h, _ := testHost(t, nil)
	m := sampleManifest(t, "greedy")
	m.Runtime.MemoryMiB = 64
	info := mustLoad(t, h, m)
	if slices.Contains(info.Containment.Enforced, "memory:cgroup") == slices.Contains(info.Containment.Enforced, "memory:sampled") {
		t.Errorf("containment: %+v", info.Containment)
	}
}

// TestR28ForkBomb bounds the number of processes where a cgroup can be written.
func TestR28ForkBomb(t *testing.T) {
	h, rec := testHost(t, quickRestart)
	dir := writeFiles(t, map[string]string{"bomb.py": `
import os, time

class Bomb:
    def call(self, method, payload):
        first = os.getpid()
        while True:
            try:
                os.fork()
            except OSError:
                if os.getpid() == first:
                    os._exit(9)
                time.sleep(1)

def create_plugin():
    return Bomb()
`})
	m := pythonManifest(dir, "bomb", "bomb")
	enforces(t, mustLoad(t, h, m), "processes:cgroup")
	if testing.Short() || os.Getenv("ROLLOUT_CHAOS_COUNT") == "" {
		t.Skip("SKIPPED: thousands of processes are for make chaos-r28")
	}
	_, err := h.Call(context.Background(), "bomb", "go", nil)
	if !core.IsCode(err, core.CodePluginCrashed) {
		t.Errorf("fork bomb: %v", err)
	}
	rec.wait(t, "restart", func(ev core.PluginEvent) bool { return ev.Topic == core.TopicPluginRestarted })
}
