package cli

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestExitCodesAreThoseOfTheContract(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("x"), 1},
		{core.Errorf("", core.CodeBusy, "x"), 1},
		{core.Errorf("", core.CodeUnavailable, "x"), 1},
		{usagef("x"), 2},
		{core.Violations{{Msg: "x"}}.Err("x"), 2},
		{core.Errorf("", core.CodeInvalidArgument, "x"), 2},
		{core.Errorf("", core.CodeUnauthenticated, "x"), 3},
		{core.Errorf("", core.CodePermissionDenied, "x"), 3},
		{core.Errorf("", core.CodeVersionMismatch, "x"), 3},
		{core.Errorf("", core.CodeFenced, "x"), 4},
	} {
		if got := exitCode(c.err); got != c.want {
			t.Errorf("%v gives %d, want %d", c.err, got, c.want)
		}
	}
	if got := (&tool{}).exitCode(core.Errorf("", core.CodeUnavailable, "x")); got != 3 {
		t.Errorf("the tool gives %d when nobody is there", got)
	}
}

func TestHelpAndVersion(t *testing.T) {
	for name, main := range programs() {
		out, stderr, code := call(main, "--version")
		if code != ExitOK || !strings.HasPrefix(out, name+" ") || !strings.Contains(out, "go1.") || stderr != "" {
			t.Errorf("%s --version: %d %q %q", name, code, out, stderr)
		}
		out, _, code = call(main, "--help")
		if code != ExitOK || !strings.Contains(out, "exit status") || !strings.Contains(out, "--addr") && name != "coordinator" {
			t.Errorf("%s --help: %d %q", name, code, out)
		}
		for line := range strings.Lines(out) {
			if len(line) > 120 {
				t.Errorf("%s --help has a line of %d bytes: %s", name, len(line), line)
			}
		}
	}
}

func TestConfigCommands(t *testing.T) {
	out, _, code := call(Operator, "config", "print", "--for", "worker", "--data-dir", "/srv")
	if code != ExitOK || !strings.Contains(out, `path = "/srv/worker.db" # default`) {
		t.Errorf("config print: %d %s", code, out)
	}
	out, _, code = call(Operator, "config", "print", "--json")
	if code != ExitOK || !strings.Contains(out, `{"key":"transport.protocol","value":"h2","source":{"origin":"default"}}`) {
		t.Errorf("config print --json: %d %s", code, out)
	}
}

func TestTablesKeepForeignTextInItsCell(t *testing.T) {
	var b bytes.Buffer
	if err := table(&b, [][]string{{"A", "B"}, {"x\x1b[2Jy\tz\n", ""}}); err != nil {
		t.Fatal(err)
	}
	if got := b.String(); strings.ContainsAny(got, "\x1b\t") || strings.Count(got, "\n") != 2 || !strings.HasSuffix(got, "-\n") {
		t.Errorf("the table is %q", got)
	}
	now := time.Now()
	for d, want := range map[time.Duration]string{0: "0.0s ago", 15 * time.Second: "15s ago", 90 * time.Second: "1m ago", 5 * time.Hour: "5h ago", 100 * time.Hour: "4d ago", -time.Hour: "in the future"} {
		if got := ago(now, now.Add(-d)); got != want {
			t.Errorf("%v reads %q, want %q", d, got, want)
		}
	}
	if ago(now, time.Time{}) != "never" || size(512) != "512 B" || size(3<<20) != "3.0 MiB" {
		t.Error("never, 512 B or 3.0 MiB read otherwise")
	}
}

func TestLogsHaveStableNames(t *testing.T) {
	var b bytes.Buffer
	newLogger(&b, config.Config{LogFormat: "auto", LogLevel: "warn"}).Warn("hello", "took", 1500*time.Millisecond)
	for _, want := range []string{`"ts":"`, `"level":"warn"`, `"msg":"hello"`, `"took":"1.5s"`} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the log lacks %s: %s", want, b.String())
		}
	}
	b.Reset()
	log := newLogger(&b, config.Config{LogFormat: "text", LogLevel: "debug"})
	log.Debug("hello", slog.Group("g", "level", 1))
	if !strings.Contains(b.String(), "level=debug") || !strings.Contains(b.String(), "g.level=1") {
		t.Errorf("the log is %s", b.String())
	}
}
