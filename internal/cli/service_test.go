package cli

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// manager is a service manager that starts one program and listens to it.
type manager struct {
	*transcript
	conn  *net.UnixConn
	cmd   *exec.Cmd
	lines []string // heard and not yet asked for
}

// manage starts a program with a watchdog that is told every 100 ms.
func manage(t *testing.T, program string, args ...string) *manager {
	t.Helper()
	dir, err := os.MkdirTemp("", "n") // a socket's name may have 104 bytes
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{transcript: newTranscript(t), conn: conn, cmd: exec.Command(self, args...)}
	m.cmd.Env = append(os.Environ(), childEnv+"="+program, "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=200000")
	m.cmd.Stderr = m
	if err := m.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if m.cmd.ProcessState == nil {
			// It may have ended meanwhile; Wait tells how in any case.
			_ = m.cmd.Process.Kill()
			_ = m.cmd.Wait()
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", program, m.stderr())
		}
	})
	return m
}

// hears waits for a line that begins so, and returns it. What comes before it must not
// begin with one of never.
func (m *manager) hears(begin string, never ...string) string {
	m.t.Helper()
	for {
		line := m.line(begin)
		if strings.HasPrefix(line, begin) {
			return line
		}
		for _, bad := range never {
			if strings.HasPrefix(line, bad) {
				m.t.Fatalf("%s came before %s", line, begin)
			}
		}
	}
}

// line returns the next line of the messages.
func (m *manager) line(wanted string) (line string) {
	m.t.Helper()
	if len(m.lines) == 0 {
		if err := m.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			m.t.Fatal(err)
		}
		buf := make([]byte, 4096)
		n, err := m.conn.Read(buf)
		if err != nil {
			m.t.Fatalf("no %s came: %v\n%s", wanted, err, m.stderr())
		}
		m.lines = strings.Split(string(buf[:n]), "\n")
	}
	line, m.lines = m.lines[0], m.lines[1:]
	return line
}

// silent reads what has been sent and then reports whether nothing more comes for d.
func (m *manager) silent(d time.Duration) bool {
	m.t.Helper()
	m.lines = nil
	buf := make([]byte, 4096)
	for wait := time.Duration(0); ; {
		if err := m.conn.SetReadDeadline(time.Now().Add(max(wait, time.Millisecond))); err != nil {
			m.t.Fatal(err)
		}
		switch _, err := m.conn.Read(buf); {
		case err != nil && wait > 0:
			return true
		case err != nil:
			wait = d
		case wait > 0:
			return false
		}
	}
}

func (m *manager) signal(sig syscall.Signal) {
	m.t.Helper()
	if err := m.cmd.Process.Signal(sig); err != nil {
		m.t.Fatal(err)
	}
}

// freezes stops the program and returns once it is.
func (m *manager) freezes() {
	m.t.Helper()
	m.signal(syscall.SIGSTOP)
	var info syscall.WaitStatus
	if _, err := syscall.Wait4(m.cmd.Process.Pid, &info, syscall.WUNTRACED, nil); err != nil || !info.Stopped() {
		m.t.Fatalf("it did not stop: %v, %v", info, err)
	}
}

// ends waits for a clean end.
func (m *manager) ends() {
	m.t.Helper()
	if err := m.cmd.Wait(); err != nil {
		m.t.Errorf("it ends with %v:\n%s", err, m.stderr())
	}
}

func TestACoordinatorTellsItsServiceManager(t *testing.T) {
	t.Setenv("ROLLOUT_TRANSPORT_LISTEN_ADDR", "127.0.0.1:0")
	dir := t.TempDir()
	file := filepath.Join(dir, "rollout.toml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("[log]\nlevel = \"warn\"\n")
	m := manage(t, "coordinator", "--data-dir", filepath.Join(dir, "c"), "--config", file)
	m.hears("READY=1", "STOPPING=1", "RELOADING=1")
	m.hears("STATUS=serving 127.0.0.1:")
	m.hears("WATCHDOG=1", "READY=1")

	m.freezes()
	if !m.silent(time.Second / 2) {
		t.Error("a stopped process feeds its watchdog")
	}
	m.signal(syscall.SIGCONT)
	m.hears("WATCHDOG=1")

	write("[log]\nlevel = \"info\"\n[work]\nmax_losses = 9\n")
	m.signal(syscall.SIGHUP)
	m.hears("RELOADING=1", "STOPPING=1")
	m.hears("READY=1", "STOPPING=1")
	m.awaitLog("take effect at the next start")
	m.awaitLog("work.max_losses")
	m.awaitLog("the configuration was read again") // at level info, which is new

	write("[log]\nlevel = \"loud\"\n")
	m.signal(syscall.SIGHUP)
	m.hears("RELOADING=1", "STOPPING=1")
	m.hears("READY=1", "STOPPING=1")
	m.awaitLog("the configuration stays as it was")
	m.hears("WATCHDOG=1", "STOPPING=1")

	m.signal(syscall.SIGTERM)
	m.hears("STOPPING=1", "READY=1")
	m.ends()
}

func TestAWorkerIsReadyWhenItIsRegistered(t *testing.T) {
	s := newSite(t)
	lost := manage(t, "worker", "--addr", s.addr, "--data-dir", s.path("lost"), "--tls-dir", s.path("no-ca.pem-here"))
	lost.hears("STATUS=worker", "READY=1")
	lost.hears("WATCHDOG=1", "READY=1") // it lives, though nobody answers
	lost.signal(syscall.SIGTERM)
	lost.hears("STOPPING=1", "READY=1")
	lost.ends()

	w := manage(t, "worker", "--addr", s.addr, "--data-dir", s.path("w"), "--tls-dir", s.tls())
	w.hears("READY=1", "STOPPING=1")
	w.hears("WATCHDOG=1", "STOPPING=1")
	w.freezes()
	if !w.silent(time.Second / 2) {
		t.Error("a stopped worker feeds its watchdog")
	}
	w.signal(syscall.SIGCONT)
	w.hears("WATCHDOG=1", "STOPPING=1")
	w.signal(syscall.SIGTERM)
	w.hears("STOPPING=1", "READY=1")
	w.ends()
	s.coord.await(core.TopicWorkerDeregistered, 1)
}

// A hangup takes over the log level and exchanged plugins, and ends nothing.
func TestHangupExchangesChangedPlugins(t *testing.T) {
	s := newSite(t)
	dir := s.path("p")
	if code, _, stderr := plugin(t, "", "new", "--dir", dir, "mine"); code != ExitOK {
		t.Fatalf("plugin new: %s", stderr)
	}
	manifest := filepath.Join(dir, "rollout-plugin.toml")
	w := s.worker("w", "--plugin", manifest)
	loaded := w.await(core.TopicPluginLoaded, 1)
	s.coord.await(core.TopicWorkerState, 1)

	hangup(t)
	w.awaitLog("the configuration was read again")
	text := readFile(t, manifest)
	if err := os.WriteFile(manifest, []byte(strings.Replace(text, `version = "0.1.0"`, `version = "0.2.0"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	hangup(t)
	now := w.await(core.TopicPluginReloaded, 1)
	if loaded.Attrs["version"] != "0.1.0" || now.Attrs["version"] != "0.2.0" {
		t.Errorf("loaded %v, reloaded %v", loaded.Attrs, now.Attrs)
	}
	if code := w.exit(); code != ExitOK {
		t.Errorf("the worker ends with %d", code)
	}
	if n := len(w.topics(core.TopicPluginReloaded)); n != 1 {
		t.Errorf("%d reloads, an unchanged plugin is left alone", n)
	}
}

// hangup sends SIGHUP to this process, in which the programs run.
func hangup(t *testing.T) {
	t.Helper()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
}

// unitCommand returns the arguments with which a unit starts its program.
func unitCommand(t *testing.T, unit, stateDir string) []string {
	t.Helper()
	for line := range strings.Lines(readFile(t, filepath.Join("../../deploy/systemd", unit))) {
		if command, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart="); ok {
			return strings.Fields(os.Expand(command, func(name string) string {
				return map[string]string{"STATE_DIRECTORY": stateDir}[name] // ARGS is empty, as without a file
			}))[1:]
		}
	}
	t.Fatalf("%s starts nothing", unit)
	return nil
}

// The units start the programs as they are, and the worker finds what their comments
// say to put there.
func TestTheUnitsStartTheRealPrograms(t *testing.T) {
	t.Setenv("ROLLOUT_TRANSPORT_LISTEN_ADDR", "127.0.0.1:0")
	dir := t.TempDir()
	c := launch(t, Coordinator, unitCommand(t, "rollout-coordinator.service", filepath.Join(dir, "c"))...)
	addr, _ := c.await(core.TopicCoordinatorStarted, 1).Attrs["addr"].(string)
	t.Setenv("ROLLOUT_COORDINATOR_ADDR", addr)
	tls := filepath.Join(dir, "w", "tls")
	if err := os.MkdirAll(tls, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.pem", "join.token"} {
		if err := os.WriteFile(filepath.Join(tls, name), []byte(readFile(t, filepath.Join(dir, "c", "tls", name))), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w := launch(t, Worker, unitCommand(t, "rollout-worker@.service", filepath.Join(dir, "w"))...)
	c.await(core.TopicWorkerRegistered, 1)
	if w, c := w.exit(), c.exit(); w != ExitOK || c != ExitOK {
		t.Errorf("they end with %d and %d", w, c)
	}
}

// What a unit asks of systemd must fit what the programs do.
func TestTheUnitsAreValid(t *testing.T) {
	for unit, wants := range map[string][]string{
		"rollout-coordinator.service": {"Type=notify", "WatchdogSec=30s", "KillMode=mixed", "Restart=on-failure", "RestartPreventExitStatus=2 4", "ExecReload=/bin/kill -HUP $MAINPID"},
		"rollout-worker@.service":     {"Type=notify", "WatchdogSec=30s", "KillMode=mixed", "Restart=on-failure", "RestartPreventExitStatus=2 4", "ExecReload=/bin/kill -HUP $MAINPID", "Delegate=memory pids", "RestrictNamespaces=user net", "TimeoutStopSec=45s"},
	} {
		text := readFile(t, filepath.Join("../../deploy/systemd", unit))
		for _, want := range wants {
			if !strings.Contains(text, "\n"+want+"\n") {
				t.Errorf("%s lacks %s", unit, want)
			}
		}
		systemdVerifies(t, unit, text)
	}
}

// systemdVerifies asks systemd itself, where there is one.
func systemdVerifies(t *testing.T, unit, text string) {
	t.Helper()
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Logf("NOT TRIED: systemd-analyze is not on PATH, so %s is not verified by systemd", unit)
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"coordinator", "worker"} { // it asks whether the programs are there
		text = strings.ReplaceAll(text, "ExecStart=/usr/local/bin/"+program+" ", "ExecStart="+self+" ")
	}
	file := filepath.Join(t.TempDir(), strings.Replace(unit, "@.", "@one.", 1))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", file).CombinedOutput()
	if strings.Contains(string(out), "Failed to initialize manager") || strings.Contains(string(out), "unknown option") {
		t.Logf("NOT TRIED: systemd-analyze does not work on this machine: %s", out)
		return
	}
	if bad := regexp.MustCompile(`(?i)unknown|invalid|failed to parse`).Find(out); err != nil || bad != nil {
		t.Errorf("systemd says of %s: %v\n%s", unit, err, out)
	}
}
