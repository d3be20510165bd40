//go:build linux

package pluginhost

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// nobody is a user without rights on any machine.
const nobody = 65534

// asNobody is what the role user prints.
type asNobody struct {
	UID         int
	Containment core.Containment
	Echo        string
	Connect     string // what came of a connection to the test's listener
	Write       string // what came of a file beside the plugin's own
	Greed       string // what came of taking more memory than the limit
}

// userRole is a worker of an ordinary user: it loads the sample and tries its limits.
func userRole() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	dir := os.Getenv("ROLLOUT_TEST_DIR")
	h, err := New(Config{DataDir: os.Getenv("ROLLOUT_TEST_DATA"), Launcher: []string{exe, "launch"}})
	if err != nil {
		return err
	}
	defer h.Shutdown(context.Background())
	m := pythonManifest(dir, "p", "sample")
	m.Runtime.Interpreter, m.Runtime.MemoryMiB = "/usr/bin/python3", 128
	info, err := h.Load(context.Background(), m)
	if err != nil {
		return err
	}
	out := asNobody{
		UID: os.Geteuid(), Containment: info.Containment, Echo: evalIn(h, "p", "'echo'"),
		Connect: evalIn(h, "p", "__import__('socket').create_connection(('127.0.0.1', 9), 5)"),
		Write:   evalIn(h, "p", fmt.Sprintf("open(%q, 'w')", filepath.Join(dir, "new"))),
		Greed:   evalIn(h, "p", "[b'x' * (1 << 20) for _ in range(600)] and time.sleep(60)"),
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// TestContainmentOfAnOrdinaryUser runs a worker as a user without rights, which has
// user namespaces to contain with, and no cgroup of its own: what is said to hold
// does.
func TestContainmentOfAnOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can become another user; the other tests of containment run as this one")
	}
	if exec.Command("/usr/bin/python3", "-c", "import sys; assert sys.version_info >= (3, 11)").Run() != nil {
		t.Skip("SKIPPED: no /usr/bin/python3 from 3.11 on, which every user may run")
	}
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := copyFile(filepath.Join(dir, "worker"), exe); err != nil {
		t.Fatal(err)
	}
	plugin := filepath.Join(dir, "plugin")
	if err := os.Mkdir(plugin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(plugin, "sample.py"), []byte(samplePlugin), 0o600); err != nil {
		t.Fatal(err)
	}
	give := func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, nobody, nobody)
	}
	if err := filepath.WalkDir(filepath.Dir(dir), give); err != nil { // the test's own, and private
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(dir, "worker"))
	cmd.Dir = dir
	cmd.Env = []string{
		roleVar + "=user", "ROLLOUT_TEST_DIR=" + plugin, "ROLLOUT_TEST_DATA=" + filepath.Join(dir, "data"),
		"PATH=" + systemPath, "HOME=" + dir, "TMPDIR=" + dir,
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var got asNobody
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%+v; %s", got.Containment, got.Greed)
	if got.UID != nobody || got.Echo != "echo" {
		t.Errorf("uid %d, echo %q", got.UID, got.Echo)
	}
	if slices.Contains(got.Containment.Enforced, "landlock") && !strings.Contains(got.Write, "PermissionError") {
		t.Errorf("landlock is said to hold, and writing beside the plugin gave %s", got.Write)
	}
	if slices.Contains(got.Containment.Enforced, "network") && !strings.Contains(got.Connect, "Network is unreachable") && !strings.Contains(got.Connect, "PermissionError") {
		t.Errorf("there is said to be no network, and connecting gave %s", got.Connect)
	}
	if !strings.Contains(got.Greed, "memory") {
		t.Errorf("taking 600 MiB where 128 are allowed gave %s", got.Greed)
	}
	said := strings.Join(append(got.Containment.Enforced, got.Containment.Missing...), "\n")
	for _, what := range []string{"rlimits", "network", "landlock", "memory"} {
		if !strings.Contains(said, what) {
			t.Errorf("nothing is said of %s: %s", what, said)
		}
	}
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}
