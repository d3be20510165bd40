package pluginhost

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rollout-substrate/rollout/pkg/core"
)

const fullManifest = `
name = "gsm8k-reward"
version = "0.1.0"
kind = "reward-model"
trait_id = "rollout.v1.RewardModel"
mode = "sidecar"
config_schema_path = "config.schema.json"
network_allowlist = ["hub.example.org"]

[runtime]
python_min = "3.11"
interpreter = "venv/bin/python3"
gpu = true
memory_mib = 64
concurrency = 4
call_timeout = "3s"
start_timeout = "20s"

[sandbox]
read = ["/models"]
require = true

[entry.sidecar]
command = ["python3", "-m", "gsm8k_reward"]
socket_template = "./data/sidecars/{plugin}-{pid}.sock"
env_allow = ["HF_HOME"]

[config]
threshold = 0.5
since = 2024-01-02T03:04:05Z
`

func TestManifestWithEveryKey(t *testing.T) {
	dir := writeFiles(t, map[string]string{
		ManifestName:         fullManifest,
		"config.schema.json": `{"type":"object","properties":{"threshold":{"type":"number","maximum":1}},"required":["threshold"]}`,
		"gsm8k_reward.py":    "x = 1\n",
	})
	m, err := ReadManifest(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := core.Manifest{
		Name: "gsm8k-reward", Version: "0.1.0", Kind: core.KindRewardModel, TraitID: "rollout.v1.RewardModel", Mode: core.ModeSidecar,
		ConfigSchemaPath: filepath.Join(dir, "config.schema.json"), NetworkAllowlist: []string{"hub.example.org"},
		Runtime: core.Runtime{
			PythonMin: "3.11", Interpreter: filepath.Join(dir, "venv/bin/python3"), GPU: true, MemoryMiB: 64, Concurrency: 4,
			CallTimeout: 3 * time.Second, StartTimeout: 20 * time.Second,
		},
		Sandbox: core.Sandbox{Read: []string{"/models"}, Require: true},
		Sidecar: core.SidecarEntry{Command: []string{"python3", "-m", "gsm8k_reward"}, Protocol: core.ProtocolFramed, EnvAllow: []string{"HF_HOME"}},
		Config:  map[string]any{"threshold": 0.5, "since": "2024-01-02T03:04:05Z"},
		Path:    filepath.Join(dir, ManifestName), Dir: dir, Digest: m.Digest,
	}
	if diff := cmp.Diff(want, m); diff != "" {
		t.Error(diff)
	}
	if len(m.Digest) != 64 {
		t.Errorf("digest %q", m.Digest)
	}
	if err := os.WriteFile(filepath.Join(dir, "gsm8k_reward.py"), []byte("x = 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := ReadManifest(dir, nil)
	if err != nil || again.Digest == m.Digest {
		t.Errorf("digest after a change of the module: %v, %v", again.Digest == m.Digest, err)
	}
}

func TestManifestsOfTheOriginal(t *testing.T) {
	for name, tc := range map[string]struct {
		text string
		want func(core.Manifest) bool
	}{
		"cdylib": {`
name = "sample-cdylib"
version = "0.1.0"
kind = "reward-model"
trait_id = "t"
mode = "rust-cdylib"
network_allowlist = []
[runtime]
gpu = false
memory_mib = 64
[entry.cdylib]
path = "libsample.dylib"
symbol = "rollout_plugin_factory"
`, func(m core.Manifest) bool {
			return m.Mode == core.ModeSO && strings.HasSuffix(m.SO.Path, "/libsample.so")
		}},
		"pyo3": {`
name = "sample-pyo3"
version = "0.1.0"
kind = "tool-harness"
trait_id = "t"
mode = "pyo3"
[entry.pyo3]
module = "sample"
factory = "create_plugin"
`, func(m core.Manifest) bool { return m.Mode == core.ModePython && m.Python.Module == "sample" }},
		"sidecar": {`
name = "sample-sidecar"
version = "0.1.0"
trait_id = "t"
mode = "sidecar"
[kind]
custom = "thing"
[entry.sidecar]
command = ["python3", "-m", "sample"]
protocol = "framed-json-uds"
socket_template = "./data/sidecars/{plugin}-{pid}.sock"
`, func(m core.Manifest) bool {
			return m.Sidecar.Protocol == core.ProtocolFramedJSON && m.Kind == core.KindCustom && m.CustomKind == "thing"
		}},
		"nested": {`
[plugin]
name = "nested"
version = "0.1.0"
kind = "queue"
mode = "sidecar"
[plugin.runtime]
concurrency = 3
[entry]
command = ["./run"]
protocol = "grpc-uds"
`, func(m core.Manifest) bool {
			return m.Name == "nested" && m.Runtime.Concurrency == 3 && m.Sidecar.Protocol == core.ProtocolGRPC
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeFiles(t, map[string]string{ManifestName: tc.text, "libsample.so": "x", "sample.py": ""})
			m, err := ReadManifest(dir, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !tc.want(m) {
				t.Errorf("got %+v", m)
			}
		})
	}
}

func TestManifestReportsEverythingAtOnce(t *testing.T) {
	dir := writeFiles(t, map[string]string{ManifestName: `name = "Bad Name"
version = 3
kind = "reward"
mode = "python"
network_alowlist = []

[runtime]
gpu = "yes"
memory_mib = -1
call_timeout = "soon"
threads = 4

[entry.python]
module = "a/b"
[entry.sidecar]
command = []
protocol = "http"
`})
	_, err := ReadManifest(dir, nil)
	var vs core.Violations
	if !errors.As(err, &vs) || !core.IsCode(err, core.CodeConfigInvalid) {
		t.Fatalf("got %v", err)
	}
	file := filepath.Join(dir, ManifestName)
	for _, want := range []string{
		file + `:1: name: is "Bad Name"`,
		file + `:2: version: is a whole number; write a string`,
		file + `:3: kind: is "reward"; set it to one of`,
		file + `:5: network_alowlist: is not a key of a manifest; did you mean network_allowlist`,
		file + `:8: runtime.gpu: is a string; write true or false`,
		file + `:9: runtime.memory_mib: is -1`,
		file + `:10: runtime.call_timeout: is "soon"`,
		file + `:11: runtime.threads: is not a key`,
		file + `:14: entry.python.module: is "a/b"`,
		file + `:16: entry.sidecar.command: is empty`,
		file + `:16: entry.sidecar.command: does not belong to mode python`,
		file + `:17: entry.sidecar.protocol: is "http"`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("missing %q", want)
		}
	}
	t.Log(err)
}

func TestManifestRefuses(t *testing.T) {
	base := "name = \"p\"\nversion = \"1\"\nkind = \"queue\"\n"
	for name, tc := range map[string]struct{ text, want string }{
		"syntax":          {base + "mode =\n", ":4: "},
		"repeated key":    {base + "name = \"q\"\n", ":4: "},
		"missing keys":    {"", "mode: is missing"},
		"missing entry":   {base + `mode = "so"`, "entry.so.path: is missing; mode so needs it"},
		"alias twice":     {base + "mode = \"so\"\n[entry.so]\npath = \"a\"\n[entry.cdylib]\npath = \"b\"\n", "is set already as entry"},
		"nested twice":    {base + "mode = \"so\"\n[plugin]\nname = \"x\"\n[entry.so]\npath = \"a\"\n", "is set already as plugin.name"},
		"isolated python": {base + "mode = \"python\"\nisolation = \"process\"\n[entry.python]\nmodule = \"m\"\n", ":5: isolation: is for mode so only"},
		"absent library":  {base + "mode = \"so\"\n[entry.so]\npath = \"a.so\"\n", ":6: entry.so.path: no library at"},
		"NaN":             {base + "mode = \"python\"\n[entry.python]\nmodule = \"m\"\n[config]\nx = nan\n", ":7: config: holds NaN"},
		"schema above":    {base + "mode = \"python\"\nconfig_schema_path = \"../x.json\"\n[entry.python]\nmodule = \"m\"\n", ":5: config_schema_path: is \"../x.json\"; keep"},
		"template":        {base + "mode = \"sidecar\"\n[entry.sidecar]\ncommand = [\"x\"]\nsocket_template = \"a/../../b\"\n", "must not lead upwards"},
		"template field":  {base + "mode = \"sidecar\"\n[entry.sidecar]\ncommand = [\"x\"]\nsocket_template = \"{home}.sock\"\n", "unknown field {home}"},
		"schema mismatch": {base + "mode = \"python\"\nconfig_schema_path = \"s.json\"\n[entry.python]\nmodule = \"m\"\n[config]\nn = \"x\"\n", ":8: config: does not match s.json"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := writeFiles(t, map[string]string{ManifestName: tc.text, "s.json": `{"properties":{"n":{"type":"integer"}}}`})
			_, err := ReadManifest(dir, nil)
			if !core.IsCode(err, core.CodeConfigInvalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
	if _, err := ReadManifest(t.TempDir(), nil); !core.IsCode(err, core.CodeNotFound) {
		t.Errorf("absent file: %v", err)
	}
}

func TestDigestCovers(t *testing.T) {
	text := "name = \"p\"\nversion = \"1\"\nkind = \"queue\"\nmode = \"sidecar\"\n[entry.sidecar]\ncommand = [\"python3\", \"-m\", \"rollout_plugin\", \"run\", \"pkg.mod:make\", \"data.txt\"]\n"
	dir := writeFiles(t, map[string]string{ManifestName: text, "pkg/__init__.py": "", "pkg/mod.py": "a", "pkg/sub/x.py": "b", "data.txt": "c", "other.txt": "d"})
	read := func() string {
		t.Helper()
		m, err := ReadManifest(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		return m.Digest
	}
	last := read()
	for file, changes := range map[string]bool{ManifestName: true, "pkg/mod.py": true, "pkg/sub/x.py": true, "data.txt": true, "other.txt": false} {
		path := filepath.Join(dir, file)
		b, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(path, append(b, '\n'), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		if now := read(); (now != last) != changes {
			t.Errorf("%s: digest changed %v, want %v", file, now != last, changes)
		} else {
			last = now
		}
	}
	m, err := ReadManifest(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	files, err := Files(m, nil)
	if err != nil || len(files) != 5 {
		t.Errorf("files: %v, %v", files, err)
	}
}

func TestFind(t *testing.T) {
	manifest := func(name string) string {
		return "name = \"" + name + "\"\nversion = \"1\"\nkind = \"queue\"\nmode = \"python\"\n[entry.python]\nmodule = \"m\"\n"
	}
	dir := writeFiles(t, map[string]string{
		"plugins/a/" + ManifestName:             manifest("reward"),
		"plugins/broken/" + ManifestName:        "nonsense",
		"xdg/rollout/plugins/b/" + ManifestName: manifest("reward"),
		"xdg/rollout/plugins/c/" + ManifestName: manifest("only-here"),
	})
	env := func(name string) (string, bool) {
		return map[string]string{"XDG_DATA_HOME": filepath.Join(dir, "xdg")}[name], name == "XDG_DATA_HOME"
	}
	found, err := Find("reward", dir, env)
	if err != nil || found.Path != filepath.Join(dir, "plugins/a", ManifestName) || len(found.Shadowed) != 1 {
		t.Errorf("reward: %+v, %v", found, err)
	}
	if found, err = Find("only-here", dir, env); err != nil || !strings.Contains(found.Path, "/c/") {
		t.Errorf("only-here: %+v, %v", found, err)
	}
	if _, err = Find("absent", dir, env); !core.IsCode(err, core.CodeNotFound) || !strings.Contains(err.Error(), "xdg/rollout/plugins") {
		t.Errorf("absent: %v", err)
	}
	if _, err = Find("broken", dir, env); !core.IsCode(err, core.CodeConfigInvalid) {
		t.Errorf("broken: %v", err)
	}
	if found, err = Find("./plugins/a", dir, env); err != nil || found.Path != filepath.Join(dir, "plugins/a") {
		t.Errorf("path: %+v, %v", found, err)
	}
}

func FuzzManifest(f *testing.F) {
	f.Add(fullManifest)
	f.Add("[plugin]\nname='x'\n[entry]\npath='a'\n")
	f.Add("kind = { custom = \"x\" }\nentry.cdylib = { path = \"p\" }\n")
	f.Add("[[entry.sidecar]]\ncommand=[1]\n[config]\nx=[nan,inf,2020-01-01,[[]]]\n")
	f.Add("a.b.c = 1\nruntime = 3\nplugin = []\nmode='rust-cdylib'\n")
	f.Fuzz(func(t *testing.T, text string) {
		m, vs := parseManifest([]byte(text), "f.toml")
		for _, v := range vs {
			if v.Line < 1 || v.Msg == "" || v.File != "f.toml" {
				t.Errorf("violation without place or text: %+v", v)
			}
		}
		if len(vs) == 0 && (checkName(m.Name) != "" || m.Mode == "" || m.Runtime.Concurrency < 1 || m.Runtime.CallTimeout <= 0) {
			t.Errorf("accepted %+v", m)
		}
		if len(vs) == 0 {
			if _, err := configJSON(m.Config); err != nil {
				t.Errorf("config: %v", err)
			}
		}
	})
}
