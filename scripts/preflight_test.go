package scripts

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// machine is a tree with a copy of the scripts and a PATH of chosen programs, so
// that a test decides what this computer has.
type machine struct {
	t    *testing.T
	root string // holds scripts/ and go.mod
	bin  string // the only directory on PATH, unless path is set
	path string
}

// tools are what the scripts take for granted on any Debian machine.
var tools = []string{"bash", "sh", "env", "dirname", "mktemp", "rm", "mkdir", "mv", "chmod", "timeout", "cat", "find", "grep", "sed", "sort", "xargs", "tr"}

const (
	goodGo     = `[ "$*" = "env GOVERSION" ] && echo go1.26.8`
	goodCC     = `while [ $# -gt 0 ]; do [ "$1" = -o ] && : >"$2"; shift; done`
	goodPython = `case "$*" in *sysconfig*) echo yes 3.12.1 /lib/libpython3.12.so.1.0 - ;; *) echo usable python ;; esac`
	oldPython  = `case "$*" in *sysconfig*) echo no 3.9.2 /lib/libpython3.9.so.1.0 - ;; *) echo old python ;; esac`
	barePython = `case "$*" in *sysconfig*) echo no 3.12.1 - - ;; *) echo bare python ;; esac`
)

func newMachine(t *testing.T) *machine {
	t.Helper()
	m := &machine{t: t, root: t.TempDir(), bin: t.TempDir()}
	for _, name := range tools {
		real, err := exec.LookPath(name)
		if err != nil {
			t.Fatalf("the tests of the scripts need %s: %v", name, err)
		}
		if err := os.Symlink(real, filepath.Join(m.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	m.file("go.mod", "module example.com/m\n\ngo 1.26.0\n", 0o644)
	for _, script := range []string{"preflight.sh", "chaos.sh"} {
		data, err := os.ReadFile(script)
		if err != nil {
			t.Fatal(err)
		}
		m.file("scripts/"+script, string(data), 0o755)
	}
	m.program("go", goodGo)
	m.program("cc", goodCC)
	m.program("make", "")
	m.program("python3", goodPython)
	m.program("id", "echo 1000")
	return m
}

func (m *machine) file(name, content string, mode os.FileMode) {
	m.t.Helper()
	name = filepath.Join(m.root, name)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(content), mode); err != nil {
		m.t.Fatal(err)
	}
}

// program puts a shell script of the given body on PATH.
func (m *machine) program(name, body string) { m.programIn(m.bin, name, body) }

func (m *machine) programIn(dir, name, body string) {
	m.t.Helper()
	name = filepath.Join(dir, name)
	if err := os.RemoveAll(name); err != nil {
		m.t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) remove(name string) {
	m.t.Helper()
	if err := os.Remove(filepath.Join(m.bin, name)); err != nil {
		m.t.Fatal(err)
	}
}

// run starts scripts/preflight.sh with a command that prints "ran" and what
// python3 is. Standard input stays open and silent, as a terminal would.
func (m *machine) run() (stdout, stderr string, status int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(m.bin, "bash"), filepath.Join(m.root, "scripts/preflight.sh"), "sh", "-c", "echo ran; python3 --version")
	path := m.path
	if path == "" {
		path = m.bin
	}
	cmd.Env = []string{"PATH=" + path, "TMPDIR=" + m.t.TempDir(), "GOTOOLCHAIN=local"}
	silent, writer, err := os.Pipe()
	if err != nil {
		m.t.Fatal(err)
	}
	defer silent.Close()
	defer writer.Close()
	cmd.Stdin = silent
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	if ctx.Err() != nil {
		m.t.Fatalf("preflight hangs without input; so far:\n%s", errs.String())
	}
	if exit, ok := err.(*exec.ExitError); ok {
		return out.String(), errs.String(), exit.ExitCode()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return out.String(), errs.String(), 0
}

// aptGet is a fake that records how it was called and what it read, and puts the
// program it "installs" on PATH.
func (m *machine) aptGet(makes map[string]string) (log string) {
	log = filepath.Join(m.t.TempDir(), "apt.log")
	body := fmt.Sprintf("echo \"$DEBIAN_FRONTEND $*\" >>%[1]s\ncat >>%[1]s\ncase \" $* \" in\n", log)
	for pkg, program := range makes {
		store := m.t.TempDir()
		name, content, _ := strings.Cut(program, " ")
		m.programIn(store, name, content)
		body += fmt.Sprintf("*\" install \"*%s*) rm -f %s/%s; mv %s/%s %s/ ;;\n", pkg, m.bin, name, store, name, m.bin)
	}
	m.program("apt-get", body+"*) ;;\nesac")
	return log
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func want(t *testing.T, text string, expressions ...string) {
	t.Helper()
	for _, e := range expressions {
		if !regexp.MustCompile(e).MatchString(text) {
			t.Errorf("nothing matches %q in:\n%s", e, text)
		}
	}
}

func TestPreflightRunsTheCommandWhenAllIsThere(t *testing.T) {
	stdout, stderr, status := newMachine(t).run()
	if status != 0 || stdout != "ran\nusable python\n" {
		t.Errorf("status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
	if strings.Count(stderr, "\n") != 1 {
		t.Errorf("a ready machine deserves one line, got:\n%s", stderr)
	}
	want(t, stderr, `go1\.26\.8, cc, make, python 3\.12\.1 \(/lib/libpython3\.12\.so\.1\.0\)`, `optional and not here: protoc .*, grpcio .*, rustc`)
}

func TestPreflightNamesWhatToInstall(t *testing.T) {
	for _, test := range []struct {
		name   string
		doctor func(m *machine)
		want   []string
	}{
		{"no compiler", func(m *machine) { m.remove("cc") },
			[]string{`missing: a C compiler \(no C compiler`, `apt-get install -y gcc libc6-dev  `}},
		{"no libc headers", func(m *machine) { m.program("cc", "exit 1") },
			[]string{`cc cannot compile and link`, `apt-get install -y gcc libc6-dev  `}},
		{"no make", func(m *machine) { m.remove("make") },
			[]string{`missing: make`, `apt-get install -y make  `}},
		{"old go", func(m *machine) { m.program("go", "echo go1.19.8") },
			[]string{`missing: Go 1\.26 or newer \(.*/go is go1\.19\.8`, `go\.dev/dl`}},
		{"no go", func(m *machine) {
			m.remove("go")
			m.file("go.mod", "module example.com/m\n\ngo 1.99.0\n", 0o644) // newer than any that lies beside PATH
		}, []string{`missing: Go 1\.99 or newer`}},
		{"old python", func(m *machine) { m.program("python3", oldPython) },
			[]string{`missing: Python >= 3\.11 with its shared library \(.*/python3 is 3\.9\.2`, `apt-get install -y python3 libpython3\.\d+`}},
		{"no shared library", func(m *machine) { m.program("python3", barePython) },
			[]string{`python3 is 3\.12\.1 with shared library -`}},
		{"broken python", func(m *machine) { m.program("python3", "exit 1") },
			[]string{`missing: Python >= 3\.11`}},
		{"several at once", func(m *machine) { m.remove("cc"); m.remove("make"); m.remove("python3") },
			[]string{`apt-get install -y gcc libc6-dev make python3 libpython3\.\d+`}},
		{"sudo that asks for a password", func(m *machine) {
			m.remove("cc")
			m.aptGet(nil)
			m.program("sudo", `[ "$1" = -n ] && exit 1; cat`)
		}, []string{`missing: a C compiler`}},
		{"apt that cannot help", func(m *machine) {
			m.remove("cc")
			m.program("id", "echo 0")
			m.program("apt-get", "exit 100")
		}, []string{`apt-get install gcc libc6-dev failed`, `missing: a C compiler`}},
	} {
		t.Run(test.name, func(t *testing.T) {
			m := newMachine(t)
			test.doctor(m)
			stdout, stderr, status := m.run()
			if status != 1 || stdout != "" {
				t.Errorf("status %d, stdout %q, want 1 and nothing run", status, stdout)
			}
			want(t, stderr, test.want...)
		})
	}
}

func TestPreflightInstallsAsRoot(t *testing.T) {
	m := newMachine(t)
	m.remove("cc")
	m.program("id", "echo 0")
	log := m.aptGet(map[string]string{"gcc": "gcc " + goodCC})
	stdout, stderr, status := m.run()
	if status != 0 || stdout != "ran\nusable python\n" {
		t.Errorf("status %d, stdout %q, stderr:\n%s", status, stdout, stderr)
	}
	want(t, read(t, log), `(?m)^noninteractive .* update\nnoninteractive .* install --no-install-recommends gcc libc6-dev\n$`)
}

func TestPreflightInstallsThroughSudo(t *testing.T) {
	m := newMachine(t)
	m.remove("make")
	m.program("sudo", `[ "$1" = -n ] || exit 1; shift; exec "$@"`)
	m.program("true", "")
	log := m.aptGet(map[string]string{"make": "make :"})
	if _, stderr, status := m.run(); status != 0 {
		t.Errorf("status %d:\n%s", status, stderr)
	}
	want(t, read(t, log), ` install --no-install-recommends make\n$`)
}

func TestPreflightInstallsTheSharedLibraryOfPython(t *testing.T) {
	m := newMachine(t)
	m.program("python3", barePython)
	m.program("id", "echo 0")
	log := m.aptGet(map[string]string{"libpython3.*": "python3 " + goodPython})
	if _, stderr, status := m.run(); status != 0 {
		t.Errorf("status %d:\n%s", status, stderr)
	}
	want(t, read(t, log), ` install --no-install-recommends python3\n.* install --no-install-recommends libpython3\.\d+\n$`)
}

func TestPreflightGivesTheCommandAUsablePython(t *testing.T) {
	m := newMachine(t)
	m.program("python3", oldPython)
	second := t.TempDir()
	m.programIn(second, "python3.12", goodPython)
	m.path = m.bin + ":" + second
	stdout, stderr, status := m.run()
	if status != 0 || stdout != "ran\nusable python\n" {
		t.Errorf("status %d, stdout %q, stderr:\n%s", status, stdout, stderr)
	}
}
