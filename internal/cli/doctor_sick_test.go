package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// sick is a machine with a data directory as a coordinator leaves it, which a test
// then breaks.
type sick struct {
	t    *testing.T
	dir  string
	args []string
}

// newSick makes the data directory. Its coordinator would listen at a free port.
func newSick(t *testing.T) *sick {
	t.Helper()
	m := &sick{t: t, dir: filepath.Join(t.TempDir(), "data")}
	m.args = []string{"--data-dir", m.dir}
	m.mkdir(m.dir)
	s, err := storage.Open(t.Context(), storage.Config{Path: m.file("rollout.db")})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	m.listen("127.0.0.1:0")
	m.authority(nil)
	return m
}

// authority makes the certificates, at a time that the test may choose.
func (m *sick) authority(now func() time.Time) {
	m.t.Helper()
	if _, err := transport.OpenAuthority(transport.AuthorityConfig{Dir: m.file("tls"), Run: core.RunID{0: 1}, Now: now}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *sick) file(name string) string { return filepath.Join(m.dir, filepath.FromSlash(name)) }

func (m *sick) mkdir(dir string) {
	m.t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		m.t.Fatal(err)
	}
}

func (m *sick) remove(name string) {
	m.t.Helper()
	if err := os.RemoveAll(m.file(name)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *sick) write(name, text string, mode os.FileMode) {
	m.t.Helper()
	m.mkdir(filepath.Dir(m.file(name)))
	if err := os.WriteFile(m.file(name), []byte(text), mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m *sick) chmod(name string, mode os.FileMode) {
	m.t.Helper()
	if err := os.Chmod(m.file(name), mode); err != nil {
		m.t.Fatal(err)
	}
}

func (m *sick) listen(addr string) { m.t.Setenv("ROLLOUT_TRANSPORT_LISTEN_ADDR", addr) }

// sees runs one check of the machine, or none for what is found before the checks,
// and tells the exit status that its findings have.
func (m *sick) sees(checks ...func(*doctor, context.Context)) (map[string]finding, int) {
	m.t.Helper()
	var out bytes.Buffer
	tl := &tool{dataDir: m.dir, stdout: &out, json: true}
	d, err := tl.newDoctor()
	if err != nil {
		m.t.Fatal(err)
	}
	for _, check := range checks {
		check(d, m.t.Context())
	}
	status := tl.exitCode(tl.tell(d.findings))
	return m.read(out.String()), status
}

// examined runs the tool with every check and reads what it prints for programs.
func (m *sick) examined() (map[string]finding, int) {
	m.t.Helper()
	status, stdout, _ := runTool(m.t, append(m.args, "doctor", "--json")...)
	return m.read(stdout), status
}

// read parses a report, and holds it to having a remedy where one is due.
func (m *sick) read(stdout string) map[string]finding {
	m.t.Helper()
	var list []finding
	if err := json.Unmarshal([]byte(stdout), &list); err != nil {
		m.t.Fatalf("%v: %s", err, stdout)
	}
	found := map[string]finding{}
	for _, f := range list {
		if _, twice := found[f.Name]; twice && !strings.HasSuffix(f.Name, "certificate") {
			m.t.Errorf("two findings are named %s", f.Name)
		}
		if (f.Remedy == "") != (f.State == healthOK) {
			m.t.Errorf("%s is %s with the remedy %q", f.Name, f.State, f.Remedy)
		}
		found[f.Name] = f
	}
	return found
}
