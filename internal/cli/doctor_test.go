package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/storage"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

// Each machine is broken in one way. The finding must name it and what to do.
func TestDoctorFindsAndExplains(t *testing.T) {
	for name, c := range map[string]struct {
		breaks        func(*sick)
		check         func(*doctor, context.Context)
		finding       string
		state         health
		found, remedy string // parts of the texts, DIR standing for the data directory
	}{
		"a CA without its key": {
			func(m *sick) { m.remove("tls/ca.key.pem") },
			(*doctor).certificates, "ca certificate", healthFail, "DIR/tls/ca.pem is there and DIR/tls/ca.key.pem is not", "put the missing half back",
		},
		"a CA key alone": {
			func(m *sick) { m.remove("tls/ca.pem") },
			(*doctor).certificates, "ca certificate", healthFail, "DIR/tls/ca.key.pem is there and DIR/tls/ca.pem is not", "put the missing half back",
		},
		"an admin without a key": {
			func(m *sick) { m.remove("tls/admin.key.pem") },
			(*doctor).certificates, "admin certificate", healthFail, "DIR/tls/admin.key.pem is not", "restart the coordinator",
		},
		"halves of two pairs": {
			func(m *sick) {
				m.write("tls/admin.key.pem", readFile(m.t, m.file("tls/ca.key.pem")), 0o600)
			},
			(*doctor).certificates, "admin certificate", healthFail, "do not make a pair", "rollout cert rotate",
		},
		"a certificate that is none": {
			func(m *sick) { m.write("tls/admin.pem", "nonsense", 0o644) },
			(*doctor).certificates, "admin certificate", healthFail, "DIR/tls/admin.pem", "rollout cert rotate",
		},
		"an expired admin": {
			func(m *sick) {
				m.remove("tls")
				m.authority(func() time.Time { return time.Now().Add(-transport.AdminLife - 48*time.Hour) })
			},
			(*doctor).certificates, "admin certificate", healthFail, "has expired, ", "rollout cert rotate",
		},
		"certificates from the future": {
			func(m *sick) {
				m.remove("tls")
				m.authority(func() time.Time { return time.Now().Add(48 * time.Hour) })
			},
			(*doctor).certificates, "ca certificate", healthFail, "is valid only from", "set this machine's clock",
		},
		"a key that all can read": {
			func(m *sick) { m.chmod("tls/ca.key.pem", 0o644) },
			(*doctor).modes, "file modes", healthFail, "DIR/tls/ca.key.pem has mode 0644", "chmod 600 DIR/tls/ca.key.pem",
		},
		"a store that all can read": {
			func(m *sick) { m.chmod("rollout.db", 0o664); m.chmod("", 0o755) },
			(*doctor).modes, "file modes", healthWarn, "DIR has mode 0755; DIR/rollout.db has mode 0664", "chmod 700 DIR && chmod 600 DIR/rollout.db",
		},
		"an empty store": {
			func(m *sick) { m.write("rollout.db", "", 0o600) },
			(*doctor).stores, "coordinator store", healthFail, "DIR/rollout.db has no bytes", "rollout store restore",
		},
		"no Python": {
			func(m *sick) { m.t.Setenv("PATH", m.t.TempDir()) },
			(*doctor).python, "python", healthFail, `program "python3" is not on PATH`, "install Python 3.11 or newer",
		},
		"no compiler": {
			func(m *sick) { m.t.Setenv("CC", "no-such-cc -O2") },
			(*doctor).compiler, "compiler", healthWarn, "none of no-such-cc is on PATH", "install one",
		},
		"a data directory that is a file": {
			func(m *sick) { m.remove(""); m.write("", "x", 0o600) },
			(*doctor).dataDir, "data directory", healthFail, "DIR is no directory", "--data-dir",
		},
		"no temporary directory": {
			func(m *sick) { m.t.Setenv("TMPDIR", m.file("none")) },
			(*doctor).tempDir, "temporary files", healthFail, "DIR/none is not there", "TMPDIR",
		},
		"a foreign address": {
			func(m *sick) { m.listen("192.0.2.1:50051") },
			(*doctor).ports, "listen address", healthFail, "192.0.2.1:50051 is no address of this machine", "transport.listen_addr",
		},
		"a mistake in the environment": {
			func(m *sick) { m.t.Setenv("ROLLOUT_LOG_LEVEL", "loud") },
			func(*doctor, context.Context) {}, "configuration", healthFail, "ROLLOUT_LOG_LEVEL", "correct it",
		},
		"run directories of a killed worker": {
			func(m *sick) { m.write("sidecars/0badcafe/sock", "", 0o600) },
			(*doctor).stale, "stale sidecars", healthNote, "DIR/sidecars/0badcafe", "start the worker",
		},
		"an object half written": {
			func(m *sick) { m.write("object-store/tmp/abc/1", "half", 0o600) },
			(*doctor).stale, "stale objects", healthNote, "DIR/object-store/tmp/abc", "rollout object gc",
		},
		"damaged objects": {
			func(m *sick) {
				for i := range 5 {
					m.write(fmt.Sprintf("object-store/quarantine/%d", i), "", 0o600)
				}
			},
			(*doctor).stale, "damaged objects", healthNote, "DIR/object-store/quarantine/2 and 2 more", "rollout object verify",
		},
		"results that are not complete": {
			func(m *sick) { m.write("out.jsonl.partial", "", 0o600) },
			(*doctor).stale, "partial results", healthNote, "DIR/out.jsonl.partial", "rollout job results",
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := newSick(t)
			c.breaks(m)
			found, status := m.sees(c.check)
			f := found[c.finding]
			got, do := strings.ReplaceAll(f.Found, m.dir, "DIR"), strings.ReplaceAll(f.Remedy, m.dir, "DIR")
			if f.State != c.state || !strings.Contains(got, c.found) || !strings.Contains(do, c.remedy) {
				t.Errorf("%s is %q: %s; to do: %s", c.finding, f.State, got, do)
			}
			if want := map[bool]int{true: ExitFailure, false: ExitOK}[c.state == healthFail]; status != want {
				t.Errorf("status %d, want %d: %v", status, want, found)
			}
		})
	}
}

func TestDoctorNamesWhoHoldsTheStore(t *testing.T) {
	m := newSick(t)
	s, err := storage.Open(t.Context(), storage.Config{Path: m.file("rollout.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	me := fmt.Sprintf("process %d", os.Getpid())
	found, _ := m.sees((*doctor).stores, (*doctor).ports)
	if f := found["coordinator store"]; f.State != healthWarn || !strings.Contains(f.Found, me) || !strings.Contains(f.Remedy, "another --data-dir") {
		t.Errorf("held by a stranger: %+v", f)
	}

	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m.listen(l.Addr().String())
	found, _ = m.sees((*doctor).stores, (*doctor).ports)
	if f := found["coordinator store"]; f.State != healthOK || !strings.Contains(f.Found, me) {
		t.Errorf("held by the coordinator: %+v", f)
	}
	if f := found["listen address"]; f.State != healthOK || !strings.Contains(f.Found, me) {
		t.Errorf("the coordinator's address: %+v", f)
	}
}

func TestDoctorNamesWhoHasThePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m := newSick(t)
	m.listen(l.Addr().String())
	found, status := m.sees((*doctor).stores, (*doctor).ports)
	f := found["listen address"]
	if f.State != healthFail || !strings.Contains(f.Found, fmt.Sprintf("in use by process %d", os.Getpid())) || !strings.Contains(f.Remedy, "another port") || status != ExitFailure {
		t.Errorf("status %d, %+v", status, f)
	}
}

func TestDoctorTriesUDPForQUIC(t *testing.T) {
	m := newSick(t)
	t.Setenv("ROLLOUT_TRANSPORT_PROTOCOL", "quic")
	found, _ := m.sees((*doctor).stores, (*doctor).ports)
	if f := found["udp for quic"]; f.State == "" || f.State == healthFail {
		t.Errorf("a free port: %+v", f)
	}
	u, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	m.listen(u.LocalAddr().String())
	found, status := m.sees((*doctor).stores, (*doctor).ports)
	if f := found["udp for quic"]; f.State != healthFail || !strings.Contains(f.Found, "did not arrive") || status != ExitFailure {
		t.Errorf("a taken port: status %d, %+v", status, f)
	}
}

// A machine in order is called so, nothing is left on it, and that of a worker needs
// no CA key.
func TestDoctorKnowsWhatIsInOrder(t *testing.T) {
	m := newSick(t)
	found, status := m.examined()
	for _, name := range []string{"configuration", "python", "data directory", "file modes", "ca certificate", "admin certificate", "coordinator store", "stale files", "listen address"} {
		if found[name].State != healthOK {
			t.Errorf("%s: %+v", name, found[name])
		}
	}
	if status != ExitOK {
		t.Errorf("status %d: %v", status, found)
	}
	left, err := filepath.Glob(m.file(".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("doctor left %v, %v", left, err)
	}
	if found["containment"].State == "" || found["disk sync"].State == "" || found["clock"].State == "" || found["landlock"].State == "" {
		t.Errorf("not everything was looked at: %v", found)
	}
	m.remove("rollout.db")
	m.remove("tls/ca.key.pem")
	found, status = m.sees((*doctor).certificates)
	if f := found["ca key"]; f.State != healthNote || status != ExitOK {
		t.Errorf("a worker's machine: status %d, %+v", status, f)
	}
}

// Run directories whose owner lives are not stale.
func TestDoctorLeavesLivingSidecarsAlone(t *testing.T) {
	m := newSick(t)
	m.mkdir(m.file("sidecars/0badcafe"))
	f, err := os.Open(m.file("sidecars/0badcafe"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if found, _ := m.sees((*doctor).stale); found["stale files"].State != healthOK {
		t.Errorf("it finds %v", found)
	}
}

// A program with small limits is a process of its own: limits cannot be raised again.
func TestDoctorUnderSmallLimits(t *testing.T) {
	m := newSick(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The shell counts file sizes in blocks of 512 bytes or of 1 KiB.
	cmd := exec.Command("/bin/sh", append([]string{"-c", `ulimit -f 4; ulimit -n 128; exec "$0" "$@"`, self}, append(m.args, "doctor", "--json")...)...)
	cmd.Env = append(os.Environ(), childEnv+"=rollout")
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != ExitFailure {
		t.Fatalf("it ends with %v: %s", err, out)
	}
	found := m.read(string(out))
	for name, text := range map[string]string{"file size": "less than an empty store", "open files": "at most 128"} {
		if f := found[name]; f.State != healthFail || !strings.Contains(f.Found, text) || !strings.Contains(f.Remedy, "ulimit") {
			t.Errorf("%s: %+v", name, f)
		}
	}
}

func TestDoctorPrintsForPeople(t *testing.T) {
	m := newSick(t)
	m.chmod("tls/ca.key.pem", 0o640)
	status, stdout, stderr := runTool(t, append(m.args, "doctor")...)
	if status != ExitFailure || !strings.Contains(stderr, "this machine needs mending: file modes") {
		t.Errorf("status %d: %s", status, stderr)
	}
	if !strings.Contains(stdout, "\nfail  file modes ") || !strings.Contains(stdout, "to do: chmod 600") || !strings.Contains(stdout, " findings: 1 failed, ") {
		t.Errorf("it prints:\n%s", stdout)
	}
	var b bytes.Buffer
	err := writeFindings(&b, []finding{{"long name", healthWarn, strings.Repeat("word ", 20), "mend\x1b[2J it"}, {"a", healthOK, "", ""}})
	const want = "warn  long name  word word word word word word word word word word word word word word word\n" +
		"                 word word word word word\n" +
		"                 to do: mend [2J it\n" +
		"ok    a          -\n\n2 findings: 1 failed"
	if got := b.String(); err != nil || got[:len(want)-len("1 failed")] != want[:len(want)-len("1 failed")] {
		t.Errorf("%v, it writes:\n%s", err, got)
	}
}
