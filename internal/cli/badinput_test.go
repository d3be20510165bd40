package cli

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// ends checks the status of a program and that its last line says why, in one
// sentence.
func ends(t *testing.T, r *running, code int, want ...string) {
	t.Helper()
	got := r.wait()
	line := r.lastLine()
	if got != code {
		t.Errorf("status %d, want %d: %s", got, code, line)
	}
	for _, w := range want {
		if !strings.Contains(line, w) {
			t.Errorf("the last line lacks %q: %s", w, line)
		}
	}
}

// prepared returns a data directory of a coordinator that has run once.
func prepared(t *testing.T) string {
	t.Helper()
	s := newSite(t)
	if code := s.coord.exit(); code != ExitOK {
		t.Fatal(s.coord.lastLine())
	}
	return s.path("c")
}

func TestBadInputOfACoordinator(t *testing.T) {
	t.Run("port in use", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		t.Setenv("ROLLOUT_TRANSPORT_LISTEN_ADDR", l.Addr().String())
		ends(t, launch(t, Coordinator, "--data-dir", t.TempDir()), ExitFailure, l.Addr().String(), "in use")
	})
	t.Run("half a CA", func(t *testing.T) {
		for _, gone := range []string{"ca.pem", "ca.key.pem"} {
			dir := prepared(t)
			if err := os.Remove(filepath.Join(dir, "tls", gone)); err != nil {
				t.Fatal(err)
			}
			ends(t, launch(t, Coordinator, "--data-dir", dir), ExitFailure, "ca.pem", "ca.key.pem")
		}
	})
	t.Run("unreadable key", func(t *testing.T) {
		dir := prepared(t)
		key := filepath.Join(dir, "tls", "ca.key.pem")
		if err := os.WriteFile(key, []byte("not a key\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		ends(t, launch(t, Coordinator, "--data-dir", dir), ExitFailure, key)
	})
	t.Run("key that others can read", func(t *testing.T) {
		dir := prepared(t)
		key := filepath.Join(dir, "tls", "ca.key.pem")
		if err := os.Chmod(key, 0o644); err != nil {
			t.Fatal(err)
		}
		ends(t, launch(t, Coordinator, "--data-dir", dir), ExitFailure, key)
	})
	t.Run("store in use", func(t *testing.T) {
		s := newSite(t)
		ends(t, launch(t, Coordinator, "--data-dir", s.path("c")), ExitFailure, "in use", fmt.Sprint(os.Getpid()))
	})
	t.Run("another run", func(t *testing.T) {
		dir := prepared(t)
		t.Setenv("ROLLOUT_RUN_ID", core.NewRunID().String())
		ends(t, launch(t, Coordinator, "--data-dir", dir), ExitUsage, "run_id")
	})
	t.Run("damaged store", func(t *testing.T) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "rollout.db"), make([]byte, 1<<16), 0o600); err != nil {
			t.Fatal(err)
		}
		ends(t, launch(t, Coordinator, "--data-dir", dir), ExitFailure, "rollout.db")
	})
}

func TestBadInputOfAWorker(t *testing.T) {
	t.Run("wrong CA", func(t *testing.T) {
		s := newSite(t)
		other := prepared(t)
		ends(t, launch(t, Worker, "--addr", s.addr, "--data-dir", s.path("w"), "--tls-dir", filepath.Join(other, "tls")), ExitRefused, "CA")
	})
	t.Run("coordinator set up anew", func(t *testing.T) {
		old := newSite(t)
		w := old.worker("w")
		old.coord.await(core.TopicWorkerRegistered, 1)
		if code := w.exit(); code != ExitOK {
			t.Fatal(w.lastLine())
		}
		s := newSite(t)
		data := old.path("w")
		args := []string{"--addr", s.addr, "--data-dir", data, "--tls-dir", s.tls()}
		ends(t, launch(t, Worker, args...), ExitRefused, "enrol again", filepath.Join(data, "identity"))
		if err := os.RemoveAll(filepath.Join(data, "identity")); err != nil {
			t.Fatal(err)
		}
		w = launch(t, Worker, args...)
		s.coord.await(core.TopicWorkerRegistered, 1)
		if code := w.exit(); code != ExitOK {
			t.Error(w.lastLine())
		}
	})
	t.Run("wrong token", func(t *testing.T) {
		s := newSite(t)
		mine := s.path("tls")
		if err := os.Mkdir(mine, 0o700); err != nil {
			t.Fatal(err)
		}
		ca, err := os.ReadFile(filepath.Join(s.tls(), "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"ca.pem": string(ca), "join.token": "wrong\n"} {
			if err := os.WriteFile(filepath.Join(mine, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ends(t, launch(t, Worker, "--addr", s.addr, "--data-dir", s.path("w"), "--tls-dir", mine), ExitRefused, "token")
	})
	t.Run("unknown host", func(t *testing.T) {
		dir := prepared(t)
		// Two dots in a row are no name, so nobody is asked.
		ends(t, launch(t, Worker, "--addr", "no..such.host:50051", "--data-dir", t.TempDir(), "--tls-dir", filepath.Join(dir, "tls")), ExitRefused, "no..such.host", "unknown")
	})
	t.Run("wrong name", func(t *testing.T) {
		s := newSite(t)
		t.Setenv("ROLLOUT_COORDINATOR_DOMAIN", "elsewhere.example")
		ends(t, s.worker("w"), ExitRefused, "coordinator_domain")
	})
	t.Run("no coordinator but something else", func(t *testing.T) {
		dir := prepared(t)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				if _, err := c.Write([]byte("220 welcome to another service\r\n")); err != nil {
					t.Error(err)
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}
		}()
		ends(t, launch(t, Worker, "--addr", l.Addr().String(), "--data-dir", t.TempDir(), "--tls-dir", filepath.Join(dir, "tls")), ExitRefused, "TLS")
	})
	t.Run("another id", func(t *testing.T) {
		s := newSite(t)
		w := s.worker("w")
		s.coord.await(core.TopicWorkerRegistered, 1)
		if code := w.exit(); code != ExitOK {
			t.Fatal(w.lastLine())
		}
		ends(t, s.worker("w", "--worker-id", core.NewWorkerID().String()), ExitUsage, "--worker-id")
	})
	t.Run("id bound to another key", func(t *testing.T) {
		s := newSite(t)
		id := core.NewWorkerID().String()
		w := s.worker("w", "--worker-id", id)
		s.coord.await(core.TopicWorkerRegistered, 1)
		if code := w.exit(); code != ExitOK {
			t.Fatal(w.lastLine())
		}
		ends(t, s.worker("other", "--worker-id", id), ExitRefused, "rollout workers forget")
	})
	t.Run("store in use", func(t *testing.T) {
		s := newSite(t)
		s.worker("w")
		s.coord.await(core.TopicWorkerRegistered, 1)
		ends(t, s.worker("w"), ExitFailure, "in use", fmt.Sprint(os.Getpid()))
	})
}

func TestBadCommandLines(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.toml")
	if err := os.WriteFile(bad, []byte("[transport]\nlisten_adr = 1\nheartbeat_interval = \"1ms\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		main program
		args []string
		want []string
	}{
		{"coordinator", Coordinator, []string{"--nonsense"}, []string{"--help", "nonsense"}},
		{"coordinator", Coordinator, []string{"run", "walk"}, []string{`"walk"`}},
		{"coordinator", Coordinator, []string{"--config", bad}, []string{bad + ":2: transport.listen_adr", bad + ":3: transport.heartbeat_interval", "2 mistakes"}},
		{"coordinator", Coordinator, []string{"--config", "absent.toml"}, []string{"absent.toml", "no such file"}},
		{"coordinator", Coordinator, []string{"--log-level", "loud"}, []string{"--log-level", "debug, info"}},
		{"worker", Worker, []string{"--worker-id", "x"}, []string{"ULID"}},
		{"worker", Worker, []string{"--addr", "nowhere"}, []string{"--addr", "host:port"}},
		{"rollout", Operator, []string{"wokers"}, []string{`did you mean "workers"`}},
		{"rollout", Operator, []string{"token", "nwe"}, []string{"token"}},
		{"rollout", Operator, []string{"status", "--nonsense"}, []string{"nonsense"}},
		{"rollout", Operator, []string{"drain"}, []string{"drain WORKER"}},
		{"rollout", Operator, []string{"drain", "x"}, []string{"ULID"}},
		{"rollout", Operator, []string{"config", "check", bad}, []string{bad + ":2:", bad + ":3:"}},
		{"rollout", Operator, []string{"config", "print", "--for", "nobody"}, []string{"--for"}},
		{"rollout", Operator, []string{"cert", "issue"}, []string{"--name"}},
	} {
		stdout, stderr, code := call(c.main, c.args...)
		if code != ExitUsage || stdout != "" {
			t.Errorf("%s %v: status %d, stdout %q", c.name, c.args, code, stdout)
		}
		for _, want := range c.want {
			if !strings.Contains(stderr, want) {
				t.Errorf("%s %v: stderr lacks %q: %s", c.name, c.args, want, stderr)
			}
		}
	}
}

func TestTheToolGivesUpInTime(t *testing.T) {
	dir := t.TempDir()
	_, stderr, code := call(Operator, "status", "--addr", "127.0.0.1:1", "--tls-dir", dir, "--timeout", "200ms")
	if code != ExitRefused || !strings.Contains(stderr, "ca.pem") {
		t.Errorf("without an identity: status %d, %s", code, stderr)
	}
	tls := filepath.Join(prepared(t), "tls")
	_, stderr, code = call(Operator, "status", "--addr", "127.0.0.1:1", "--tls-dir", tls, "--timeout", "200ms")
	if code != ExitRefused || !strings.Contains(stderr, "127.0.0.1:1") {
		t.Errorf("without a coordinator: status %d, %s", code, stderr)
	}
	s := newSite(t)
	_, stderr, code = call(Operator, "status", "--addr", s.addr, "--tls-dir", tls)
	if code != ExitRefused || !strings.Contains(stderr, "CA") {
		t.Errorf("at another coordinator: status %d, %s", code, stderr)
	}
	unknown := core.NewWorkerID().String()
	if _, stderr, code := s.rollout("drain", unknown); code != ExitFailure || !strings.Contains(stderr, "rollout workers") {
		t.Errorf("an unknown worker: status %d, %s", code, stderr)
	}
}
