package cli

import (
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// stuck never takes a byte until it is released.
type stuck struct{ released chan struct{} }

func (s stuck) Write(p []byte) (int, error) {
	<-s.released
	return len(p), nil
}

// A coordinator whose events nobody reads keeps its workers, and shows to operators
// what it could not print.
func TestAStdoutThatNobodyReadsCostsNoWorker(t *testing.T) {
	s := &site{t: t, dir: t.TempDir()}
	out := stuck{make(chan struct{})}
	mute := func(ctx context.Context, args []string, in io.Reader, _, stderr io.Writer) int {
		return Coordinator(ctx, args, in, out, stderr)
	}
	// Nothing is printed, so the port must be known beforehand.
	first := newSite(t)
	s.addr = first.addr
	if code := first.coord.exit(); code != ExitOK {
		t.Fatal(first.coord.lastLine())
	}
	t.Setenv("ROLLOUT_TRANSPORT_LISTEN_ADDR", s.addr)
	coord := launch(t, mute, "--data-dir", s.path("c"), "--log-level", "debug")
	w := s.worker("w")
	for ready := false; !ready; {
		stdout, stderr, code := s.rollout("workers", "--timeout", patience.String())
		if code != ExitOK {
			t.Fatalf("status %d: %s", code, stderr)
		}
		ready = strings.Contains(stdout, string(core.StateReady))
	}
	if stdout, _, code := s.rollout("events"); code != ExitOK || !strings.Contains(stdout, core.TopicWorkerRegistered) {
		t.Errorf("status %d, events are:\n%s", code, stdout)
	}
	if code := w.exit(); code != ExitOK {
		t.Errorf("the worker ends with %d: %s", code, w.lastLine())
	}
	coord.stop()
	if code := coord.wait(); code != ExitOK {
		t.Errorf("the coordinator ends with %d: %s", code, coord.lastLine())
	}
	if !strings.Contains(coord.stderr(), "not every event was printed") {
		t.Error("nobody says that events were not printed")
	}
	close(out.released)
}

// TestS6FilesArePrivateWhateverTheUmask starts with the most open umask.
func TestS6FilesArePrivateWhateverTheUmask(t *testing.T) {
	before := syscall.Umask(0)
	t.Cleanup(func() { syscall.Umask(before) })
	s := newSite(t)
	w := s.worker("w")
	s.coord.await(core.TopicWorkerState, 1)
	public := map[string]bool{"ca.pem": true, "admin.pem": true}
	seen := 0
	for _, root := range []string{s.path("c"), s.path("w")} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if os.IsNotExist(err) {
				return nil // a temporary file that has its name by now
			}
			if err != nil {
				return err
			}
			seen++
			want := fs.FileMode(0o600)
			switch {
			case d.IsDir():
				want = 0o700
			case public[d.Name()]:
				want = 0o644
			}
			if got := info.Mode().Perm(); got != want {
				t.Errorf("%s has mode %o, want %o", path, got, want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if seen < 10 {
		t.Errorf("only %d files and directories were found", seen)
	}
	if code := w.exit(); code != ExitOK {
		t.Error(w.lastLine())
	}
}
