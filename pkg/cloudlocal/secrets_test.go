package cloudlocal

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
)

func openSecrets(t *testing.T, cfg SecretsConfig) (*Secrets, error) {
	t.Helper()
	s, err := NewSecrets(cfg)
	if err == nil {
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	return s, err
}

func TestSecretsFromVariables(t *testing.T) {
	coretest.RunSecretStore(t, func(t *testing.T, s coretest.SecretSetup) (core.SecretStore, error) {
		environ := []string{"PATH=/bin", "ROLLOUT_SECRET_=nameless", "no variable"}
		for name, value := range s.Values {
			environ = append(environ, SecretPrefix+name+"="+value)
		}
		return openSecrets(t, SecretsConfig{Allow: s.Allow, Environ: environ})
	}, coretest.SecretStoreOptions{})
}

func TestSecretsFromTheProcess(t *testing.T) {
	coretest.RunSecretStore(t, func(t *testing.T, s coretest.SecretSetup) (core.SecretStore, error) {
		for name, value := range s.Values {
			t.Setenv(SecretPrefix+name, value)
		}
		return openSecrets(t, SecretsConfig{Allow: s.Allow})
	}, coretest.SecretStoreOptions{})
}

// TestSecretsFromFiles lays the files out as Kubernetes mounts them, behind two links.
func TestSecretsFromFiles(t *testing.T) {
	coretest.RunSecretStore(t, func(t *testing.T, s coretest.SecretSetup) (core.SecretStore, error) {
		dir := filepath.Join(t.TempDir(), "secrets")
		err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(filepath.Join(dir, "..2026"), 0o700), os.Symlink("..2026", filepath.Join(dir, "..data")))
		for name, value := range s.Values {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, "..2026", name), []byte(value+"\n"), 0o644),
				os.Symlink(filepath.Join("..data", name), filepath.Join(dir, name)))
		}
		if err != nil {
			t.Fatal(err)
		}
		return openSecrets(t, SecretsConfig{Allow: s.Allow, Dir: dir, Environ: []string{}})
	}, coretest.SecretStoreOptions{})
}

func TestSecretFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "secrets")
	away := filepath.Join(t.TempDir(), "AWAY")
	write := func(name, value string) error { return os.WriteFile(filepath.Join(dir, name), []byte(value), 0o600) }
	err := errors.Join(os.Mkdir(dir, 0o700), write("PLAIN", "a"), write("UNIX", "a\n"), write("DOS", "a\r\n"), write("TWO", "a\n\n"), write("EMPTY", ""),
		write("FULL", strings.Repeat("a", maxSecretValue)), write("LONG", strings.Repeat("a", maxSecretValue+1)), write("ZERO", "a\x00b"), write("BOTH", "file"),
		os.WriteFile(away, []byte("away"), 0o600), os.Symlink(away, filepath.Join(dir, "LINK")), os.Mkdir(filepath.Join(dir, "DIR"), 0o700))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{"PLAIN", "UNIX", "DOS", "TWO", "EMPTY", "FULL", "LONG", "ZERO", "BOTH", "LINK", "DIR"}
	s, err := openSecrets(t, SecretsConfig{Allow: names, Dir: dir, Environ: []string{"ROLLOUT_SECRET_BOTH=variable", "ROLLOUT_SECRET_PLAIN="}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"PLAIN": "a", "UNIX": "a", "DOS": "a", "TWO": "a\n", "FULL": strings.Repeat("a", maxSecretValue), "BOTH": "variable"} {
		if got, err := s.Get(t.Context(), name); err != nil || string(got.Reveal()) != want {
			t.Errorf("%s: %d bytes, %v", name, got.Len(), err)
		}
	}
	for _, name := range []string{"EMPTY", "LONG", "ZERO", "DIR"} {
		_, err := s.Get(t.Context(), name)
		wantCode(t, name, err, core.CodeInvalidArgument)
	}
	if got, err := s.Get(t.Context(), "LINK"); err == nil {
		t.Errorf("a link out of the directory was followed to %d bytes", got.Len())
	}
}

// TestS6SecretDirectory wants a directory that others cannot read.
func TestS6SecretDirectory(t *testing.T) {
	parent := t.TempDir()
	loose, file := filepath.Join(parent, "loose"), filepath.Join(parent, "file")
	if err := errors.Join(os.Mkdir(loose, 0o700), os.Chmod(loose, 0o750), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{loose, file, filepath.Join(parent, "absent")} {
		_, err := openSecrets(t, SecretsConfig{Dir: dir, Allow: []string{"lower", "OK"}})
		wantCode(t, dir, err, core.CodeConfigInvalid)
		if err != nil && (!strings.Contains(err.Error(), "secrets.dir") || !strings.Contains(err.Error(), "secrets.allow")) {
			t.Errorf("%v does not name both keys", err)
		}
	}
}

// TestS7SecretsLeaveNoChild starts a child with the environment that every child
// gets and looks for a planted value.
func TestS7SecretsLeaveNoChild(t *testing.T) {
	const canary = "canary-7d1e"
	t.Setenv(SecretPrefix+"TOKEN", canary)
	t.Setenv("ROLLOUT_SECRETARY", "stays")
	cmd := exec.Command("env")
	cmd.Env = WithoutSecrets(os.Environ())
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), canary) || strings.Contains(string(out), SecretPrefix) || !strings.Contains(string(out), "ROLLOUT_SECRETARY=stays") {
		t.Errorf("the child's environment:\n%s", out)
	}
	environ := []string{"A=1", SecretPrefix + "X=y", "B=2", SecretPrefix}
	if got := WithoutSecrets(environ); !slices.Equal(got, []string{"A=1", "B=2"}) || environ[1] != SecretPrefix+"X=y" {
		t.Errorf("%v, and the argument is now %v", got, environ)
	}
}
