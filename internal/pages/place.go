package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// calm is a heartbeat interval at which a test run on a loaded machine fences nobody.
const calm = "2s"

// place makes the page's directory: an empty one, or the repository. Where the
// programs are not those of the repository, a directory of links stands for it.
func (s *session) place() error {
	s.dir = filepath.Join(s.scratch, "here")
	if err := os.Mkdir(filepath.Join(s.scratch, "tools"), 0o700); err != nil {
		return err
	}
	if err := os.MkdirAll(s.dir, 0o700); err != nil || !s.page.InTree {
		return err
	}
	if s.Programs == "" {
		s.dir = s.Root
		return nil
	}
	entries, err := os.ReadDir(s.Root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		from := filepath.Join(s.Root, e.Name())
		switch e.Name() {
		case "bin":
			from = s.Programs
		case "data":
			continue
		}
		if err := os.Symlink(from, filepath.Join(s.dir, e.Name())); err != nil {
			return err
		}
	}
	if _, err := os.Lstat(filepath.Join(s.dir, "bin")); err == nil {
		return nil
	}
	return os.Symlink(s.Programs, filepath.Join(s.dir, "bin"))
}

// environment is this process's without settings of rollout, with the programs on
// PATH. For setups, SOURCE is the repository, HERE the page's directory, and TOOLS a
// directory that comes first on PATH.
func (s *session) environment() []string {
	programs := s.Programs
	if programs == "" {
		programs = filepath.Join(s.Root, "bin")
	}
	var env []string
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "ROLLOUT_") && !strings.HasPrefix(name, "XDG_") && name != "PATH" {
			env = append(env, kv)
		}
	}
	tools := filepath.Join(s.scratch, "tools")
	if !s.All {
		env = append(env, "ROLLOUT_TRANSPORT_HEARTBEAT_INTERVAL="+calm)
	}
	return append(env, "PATH="+tools+":"+programs+":"+os.Getenv("PATH"), "SOURCE="+s.Root, "TOOLS="+tools, "HERE="+s.dir, "XDG_DATA_HOME="+filepath.Join(s.scratch, "share"),
		"ROLLOUT_TRANSPORT_LISTEN_ADDR="+s.addr, "ROLLOUT_COORDINATOR_ADDR="+s.addr)
}

// here reports whether a block runs here and now.
func (s *session) here(b Block) bool {
	if b.Slow && !s.All {
		return false
	}
	for _, need := range b.Needs {
		_, err := exec.LookPath(need)
		if need == "root" && os.Geteuid() != 0 || need != "root" && err != nil {
			s.Log("NOT RUN: %s:%d needs %s", s.page.Path, b.Line, need)
			return false
		}
	}
	return true
}
