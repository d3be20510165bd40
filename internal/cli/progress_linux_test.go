package cli

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// openTerminal returns both ends of a pseudo terminal.
func openTerminal(t *testing.T) (screen, terminal *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("this machine gives no terminal: %v", err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = screen.Close() }) // it is closed behind its other end
	return screen, terminal
}

// On a terminal a wait shows one line that is written over and over, and removed at
// the end.
func TestATerminalShowsTheProgress(t *testing.T) {
	screen, terminal := openTerminal(t)
	shown := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		buf := make([]byte, 4096)
		for {
			n, err := screen.Read(buf)
			all.Write(buf[:n])
			if err != nil { // the other end is closed
				shown <- all.String()
				return
			}
		}
	}()
	s := newSite(t)
	s.fakeWorker("w1", func(ctx context.Context, it core.WorkItem) ([]byte, error) {
		select { // long enough for a line in between
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
		return []byte("1"), ctx.Err()
	})
	var out bytes.Buffer
	args := []string{"submit", "--plugin", "fake", "--method", "m", "--input", s.input(numbered(100)...), "--wait", "--addr", s.addr, "--tls-dir", s.tls()}
	if code := Operator(t.Context(), args, nil, &out, terminal); code != ExitOK || len(results(t, out.String())) != 100 {
		t.Errorf("status %d, %d results", code, len(results(t, out.String())))
	}
	if err := terminal.Close(); err != nil {
		t.Fatal(err)
	}
	text := <-shown
	lines := strings.Split(strings.TrimRight(text, "\r\n"), "\r")
	last := lines[len(lines)-1]
	if !strings.Contains(text, "/100 (") || !strings.Contains(text, "worker") || !strings.Contains(last, "100 items: 100 ok") {
		t.Errorf("the terminal shows %q", text)
	}
	if before := lines[len(lines)-2]; strings.TrimSpace(before) != "" {
		t.Errorf("the progress line is not removed: %q", before)
	}
}
