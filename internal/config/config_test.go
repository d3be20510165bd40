package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// write puts text into a file called name and makes its directory the working one.
func write(t *testing.T, name, text string) string {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func lines(err error) []string {
	var vs core.Violations
	if !errors.As(err, &vs) {
		return nil
	}
	return strings.Split(vs.Error(), "\n")
}

func TestDefaultsAreThoseOfTheContract(t *testing.T) {
	l, err := Load(Options{Program: Coordinator})
	if err != nil {
		t.Fatal(err)
	}
	c := l.Config
	slots := c.WorkerSlots
	want := Config{
		DataDir: "data", StorageBackend: "embedded", StoragePath: "data/rollout.db", ObjectRoot: "data/object-store",
		Protocol: "h2", ListenAddr: "127.0.0.1:50051", TLSDir: "data/tls", Timing: core.DefaultTiming(500 * time.Millisecond),
		CoordinatorAddr: "127.0.0.1:50051", CoordinatorDomain: "localhost", WorkerSlots: slots, DrainTimeout: 30 * time.Second,
		MaxAttempts: 3, MaxLosses: 5, LogLevel: "info", LogFormat: "auto",
	}
	if diff := cmp.Diff(want, c); diff != "" || slots < 1 {
		t.Errorf("defaults differ (-want +got), %d slots:\n%s", slots, diff)
	}
	l, err = Load(Options{Program: Worker, DataDir: "/srv/w1"})
	if err != nil {
		t.Fatal(err)
	}
	c = l.Config
	if c.StoragePath != "/srv/w1/worker.db" || c.TLSDir != "/srv/w1/tls" || c.IdentityDir() != "/srv/w1/identity" || c.SidecarDir() != "/srv/w1/sidecars" {
		t.Errorf("a data directory gives %+v", c)
	}
}

func TestEveryMistakeIsReportedAtOnceWithItsLine(t *testing.T) {
	write(t, "bad.toml", `run_idd = "x"
coordinator_addr = 5
[storage]
path = "a"
backend = "redis"
embedded.path = "b"
[transprt]
listen_addr = "x"
[transport]
listen_addr = "nowhere"
heartbeat_interval = 500
server_names = ["a", 3]
[log.level]
[[work]]
max_attempts = 0
[worker]
slots = 1.5
drain_timeout = "soon"
drain_timeout = "later"
`)
	_, err := Load(Options{Files: []string{"bad.toml"}, Environ: []string{"ROLLOUT_LOG_FORMAT=loud", "ROLLOUT_WORKER_SLOTS=many"},
		Flags: []Flag{{Name: "--addr", Key: "coordinator_addr", Value: "host"}}})
	want := []string{
		`bad.toml:1: run_idd: is not a known key, did you mean run_id?`,
		`bad.toml:2: coordinator_addr: is a whole number, expected a string in quotes`,
		`bad.toml:5: storage.backend: "redis" is not known, use one of: embedded`,
		`bad.toml:6: storage.embedded.path: is the same key as storage.path in line 4, keep one of them`,
		`bad.toml:7: transprt: is not a known key, did you mean transport?`,
		`bad.toml:8: transprt.listen_addr: is not a known key, did you mean transport.listen_addr?`,
		`bad.toml:10: transport.listen_addr: "nowhere" is not host:port, write for example 127.0.0.1:50051`,
		`bad.toml:11: transport.heartbeat_interval: is a whole number, expected a duration in quotes such as "500ms"`,
		`bad.toml:12: transport.server_names: holds a whole number, expected a list of strings`,
		`bad.toml:13: log.level: is a table here, expected a string in quotes`,
		`bad.toml:14: work: is a list of tables here, write [work] once`,
		`bad.toml:15: work.max_attempts: 0 is outside 1 to 1000000, choose a value inside`,
		`bad.toml:17: worker.slots: is a number with a fraction, expected a whole number`,
		`bad.toml:18: worker.drain_timeout: "soon" is not a duration, write for example "500ms", "2s" or "1m30s"`,
		`bad.toml:19: worker.drain_timeout: "later" is not a duration, write for example "500ms", "2s" or "1m30s"`,
		`bad.toml:19: worker.drain_timeout: is already set in line 18, keep one of them`,
		`ROLLOUT_LOG_FORMAT: "loud" is not known, use one of: auto, text, json`,
		`ROLLOUT_WORKER_SLOTS: "many" is not a whole number`,
		`--addr: "host" is not host:port, write for example 127.0.0.1:50051`,
	}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Errorf("violations differ (-want +got):\n%s", diff)
	}
	if !core.IsCode(err, core.CodeConfigInvalid) {
		t.Errorf("the code is %v", core.CodeOf(err))
	}
}

func TestAnUnreadableIntervalHidesNoOtherMistake(t *testing.T) {
	write(t, "bad.toml", "[transport]\nheartbeat_interval = \"5ms\"\nworker_self_fence_timeout = 3\nclock_skew_budget = \"1s\"\n")
	_, err := Load(Options{Files: []string{"bad.toml"}})
	want := []string{
		`bad.toml:3: transport.worker_self_fence_timeout: is a whole number, expected a duration in quotes such as "500ms"`,
		`bad.toml:2: transport.heartbeat_interval: 5ms is outside 10ms to 10m0s, choose a value inside`,
		`bad.toml:4: transport.clock_skew_budget: 1s must be at least 0 and below twice the heartbeat interval 5ms`,
	}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Errorf("violations differ (-want +got):\n%s", diff)
	}
}

func TestSyntaxAndFileErrors(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a = [1, 2", "bad.toml:1: "},
		{"[log]\nlevel = \"info\"\n[log]\nformat = \"text\"\n", "bad.toml:3: "},
		{"[log]\nlevel = nonsense\n", "bad.toml:2: "},
		{"transport = 3\n", "bad.toml:1: transport: is a whole number, expected a table: write [transport]"},
		{"run_id = \"01\"\n", "bad.toml:1: run_id: \"01\" is not a ULID"},
	} {
		write(t, "bad.toml", c.text)
		_, err := Load(Options{Files: []string{"bad.toml"}})
		if got := lines(err); len(got) != 1 || !strings.HasPrefix(got[0], c.want) {
			t.Errorf("%q is answered with %q, want %q", c.text, got, c.want)
		}
	}
	_, err := Load(Options{Files: []string{"absent.toml"}})
	if got := lines(err); len(got) != 1 || got[0] != "absent.toml: cannot be read: no such file or directory" {
		t.Errorf("an absent file is answered with %q", got)
	}
	write(t, "big.toml", strings.Repeat("# filler\n", maxFile/8))
	if _, err := Load(Options{Files: []string{"big.toml"}}); !strings.Contains(err.Error(), "no configuration file") {
		t.Errorf("a huge file is answered with %v", err)
	}
}

func TestLayersBeatEachOtherAndKeepTheirSource(t *testing.T) {
	write(t, "a.toml", "[log]\nlevel = \"warn\"\nformat = \"text\"\n[work]\nmax_losses = 9\n")
	if err := os.WriteFile("b.toml", []byte("log.level = \"error\"\nplugins = [\n  \"x\", # first\n  \"y\",\n]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := Load(Options{
		Files:   []string{"a.toml", "b.toml"},
		Environ: []string{"ROLLOUT_LOG_LEVEL=debug", "ROLLOUT_LOG_FORMAT=", "ROLLOUT_TRANSPORT_SERVER_NAMES=a.example, 10.0.0.1", "ROLLOUT_WORK_MAX_ATTEMPTS=4"},
		Flags:   []Flag{{Name: "--max", Key: "work.max_attempts", Value: "7"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := l.Config
	if c.LogLevel != "debug" || c.LogFormat != "text" || c.MaxAttempts != 7 || c.MaxLosses != 9 || !slices.Equal(c.Plugins, []string{"x", "y"}) || !slices.Equal(c.ServerNames, []string{"a.example", "10.0.0.1"}) {
		t.Errorf("layers give %+v", c)
	}
	for key, want := range map[string]string{
		"log.level": "ROLLOUT_LOG_LEVEL", "log.format": "a.toml:3", "plugins": "b.toml:2",
		"work.max_attempts": "--max", "work.max_losses": "a.toml:5", "storage.backend": "default",
	} {
		if got := l.Sources[key].String(); got != want {
			t.Errorf("%s comes from %s, want %s", key, got, want)
		}
	}
}

func TestEnvironmentOfOthersIsLeftAlone(t *testing.T) {
	l, err := Load(Options{Environ: []string{"ROLLOUT_SECRET_TOKEN=x", "ROLLOUT_PLUGIN_X=1", "ROLLOUT_LOG_LEVL=debug", "ROLLOUT_WHATEVER=1", "PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	want := "ROLLOUT_LOG_LEVL: is not a known variable and has no effect, did you mean ROLLOUT_LOG_LEVEL?\n" +
		"ROLLOUT_WHATEVER: is not a known variable and has no effect"
	if l.Warnings.Error() != want {
		t.Errorf("warnings are %q", l.Warnings.Error())
	}
}

func TestAFileOfTheRustOriginalLoadsWithAWarning(t *testing.T) {
	write(t, "rust.toml", `run_id = "01J8ZQ4T9V3N6B2C7D5E8F1G0H"
coordinator_addr = "https://127.0.0.1:50051"
coordinator_domain = "localhost"

[storage]
path = "./old/rollout.db"

[transport]
listen_addr = "127.0.0.1:50051"
tls_dir = "./data/tls"
heartbeat_interval = "500ms"
worker_self_fence_timeout = "4s"
coordinator_failure_timeout = "5s"
clock_skew_budget = "250ms"
`)
	l, err := Load(Options{Files: []string{"rust.toml"}})
	if err != nil {
		t.Fatal(err)
	}
	c := l.Config
	if c.StoragePath != "./old/rollout.db" || c.CoordinatorAddr != "127.0.0.1:50051" || c.Timing.Failure != 5*time.Second || c.RunID.IsZero() {
		t.Errorf("the file gives %+v", c)
	}
	if got := l.Warnings.Error(); !strings.HasPrefix(got, "rust.toml:13: transport.coordinator_failure_timeout: a dead worker is noticed only after 5s") {
		t.Errorf("the warning is %q", got)
	}
}

func TestTimingRulesNameTheLineThatSetThem(t *testing.T) {
	write(t, "t.toml", "[transport]\nheartbeat_interval = \"1ms\"\nworker_self_fence_timeout = \"9s\"\nclock_skew_budget = \"20ms\"\n")
	_, err := Load(Options{Files: []string{"t.toml"}})
	want := []string{
		"t.toml:2: transport.heartbeat_interval: 1ms is outside 10ms to 10m0s, choose a value inside",
		"t.toml:2: transport.coordinator_failure_timeout: 1.75ms must be at least self-fence 9s plus skew budget 20ms, or the coordinator acts before the worker has stopped",
		"t.toml:4: transport.clock_skew_budget: 20ms must be at least 0 and below twice the heartbeat interval 1ms",
	}
	if diff := cmp.Diff(want, lines(err)); diff != "" {
		t.Errorf("violations differ (-want +got):\n%s", diff)
	}
	l, err := Load(Options{Environ: []string{"ROLLOUT_TRANSPORT_CLOCK_SKEW_BUDGET=0s", "ROLLOUT_TRANSPORT_HEARTBEAT_INTERVAL=2s"}})
	if err != nil {
		t.Fatal(err)
	}
	if tm := l.Config.Timing; tm.Skew != 0 || tm.SelfFence != 3*time.Second || tm.Failure != 3500*time.Millisecond {
		t.Errorf("intervals are %+v", tm)
	}
	_, err = Load(Options{Environ: []string{"ROLLOUT_TRANSPORT_HEARTBEAT_INTERVAL=1h"}})
	if err == nil || !strings.Contains(err.Error(), "comes from ROLLOUT_TRANSPORT_HEARTBEAT_INTERVAL") {
		t.Errorf("a wrong variable is answered with %v", err)
	}
}

func TestPrintedConfigurationLoadsToTheSame(t *testing.T) {
	write(t, "a.toml", "plugins = [\"a b\", \"c\\\"d\\u0001\"]\n[transport]\nserver_names = [\"x\"]\nclock_skew_budget = \"0s\"\n[secrets]\nallow = [\"A_1\"]\n")
	first, err := Load(Options{Files: []string{"a.toml"}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create("printed.toml")
	if err != nil {
		t.Fatal(err)
	}
	if err := first.WriteTOML(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := Load(Options{Files: []string{"printed.toml"}})
	if err != nil {
		t.Fatal(err)
	}
	// A list that was printed empty comes back empty instead of nil.
	if diff := cmp.Diff(first.Config, second.Config); diff != "" {
		t.Errorf("printing changes the configuration (-first +second):\n%s", diff)
	}
}

// The table in the documentation is the schema.
func TestDocumentationListsEveryKey(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "config.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := Table()
	if !strings.Contains(string(doc), rows) {
		t.Errorf("docs/config.md does not hold this table:\n%s", rows)
	}
}

// FuzzFile checks that no file crashes the reader and that every violation names
// the file and a line of it.
func FuzzFile(f *testing.F) {
	for _, s := range []string{
		"", "a=1", "[log]\nlevel = \"info\"\n", "run_id = \"01J8ZQ4T9V3N6B2C7D5E8F1G0H\"",
		"[transport]\nheartbeat_interval = \"500ms\"\nserver_names = [\"a\", # x\n \"b\"]\n",
		"transport = { protocol = \"quic\", listen_addr = \"[::1]:0\" }", "\"log\".'level' = \"\\u0041\"",
		"[[plugins]]\nx = 1979-05-27T07:32:00Z\n", "worker.slots = 0x_1", "worker.slots = 1_000", "a.b.c.d = {e = [[]]}",
		"log = {level = \"info\"}\n[log]\nformat=\"text\"", "=\n", "[", "\"\"=1", "\xff", "k = \"\"\"\nlong\n\"\"\"\nk2 = ''",
	} {
		f.Add([]byte(s))
	}
	s := newSchema()
	f.Fuzz(func(t *testing.T, data []byte) {
		settings, problems := readFile(s, "f", data)
		last := strings.Count(string(data), "\n") + 2
		for _, p := range problems {
			if p.File != "f" || p.Line < 0 || p.Line > last || p.Msg == "" {
				t.Errorf("violation %+v", p)
			}
		}
		var c Config
		for _, set := range settings {
			s.keys[set.key].store(&c, set.val)
		}
	})
}
