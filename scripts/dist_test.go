package scripts

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// stage makes a directory as a build leaves it, with modes and times of the moment.
func stage(t *testing.T, names []string, at time.Time, exec, plain fs.FileMode) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "rollout-v1-linux-amd64")
	for _, name := range names {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
			t.Fatal(err)
		}
		mode := plain
		if filepath.Dir(name) == "bin" {
			mode = exec
		}
		if err := os.WriteFile(file, []byte(name), mode); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chmod(file, mode), os.Chtimes(file, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestAnArchiveDependsOnNothingButItsFiles(t *testing.T) {
	script, err := filepath.Abs("dist.sh")
	if err != nil {
		t.Fatal(err)
	}
	pack := func(dir string) []byte {
		t.Helper()
		out := filepath.Join(t.TempDir(), "a.tar.gz")
		cmd := exec.Command("bash", script, "pack", dir, out)
		cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, text)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	one := pack(stage(t, []string{"bin/worker", "LICENSE", "systemd/a@.service"}, time.Unix(1, 0), 0o755, 0o644))
	two := pack(stage(t, []string{"systemd/a@.service", "LICENSE", "bin/worker"}, time.Unix(2e9, 0), 0o700, 0o600))
	if !bytes.Equal(one, two) {
		t.Error("two archives of the same files differ")
	}

	z, err := gzip.NewReader(bytes.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	modes := map[string]fs.FileMode{}
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.ModTime.Unix() != 1700000000 {
			t.Errorf("%s is of %d:%d (%s) at %v", h.Name, h.Uid, h.Gid, h.Uname, h.ModTime)
		}
		modes[h.Name] = h.FileInfo().Mode().Perm()
	}
	if modes["rollout-v1-linux-amd64/bin/worker"] != 0o755 || modes["rollout-v1-linux-amd64/LICENSE"] != 0o644 {
		t.Errorf("the modes are %v", modes)
	}
}
