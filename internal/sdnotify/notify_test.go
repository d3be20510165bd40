package sdnotify

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// env is a set of variables.
type env map[string]string

func (e env) lookup(name string) (string, bool) {
	v, ok := e[name]
	return v, ok
}

func TestWhatTheVariablesAskFor(t *testing.T) {
	for name, c := range map[string]struct {
		env      env
		enabled  bool
		watchdog time.Duration
		err      string
	}{
		"nobody":                  {env{}, false, 0, ""},
		"a watchdog of nobody":    {env{envWatchdog: "1000000"}, false, 0, ""},
		"a path":                  {env{envSocket: "/run/x"}, true, 0, ""},
		"an abstract name":        {env{envSocket: "@x"}, true, 0, ""},
		"another kind of socket":  {env{envSocket: "vsock:2:1"}, false, 0, "NOTIFY_SOCKET"},
		"a watchdog":              {env{envSocket: "@x", envWatchdog: "30000000"}, true, 30 * time.Second, ""},
		"ours":                    {env{envSocket: "@x", envWatchdog: "7", envWatchdogUser: "42"}, true, 7 * time.Microsecond, ""},
		"another process's":       {env{envSocket: "@x", envWatchdog: "7", envWatchdogUser: "43"}, true, 0, ""},
		"no number":               {env{envSocket: "@x", envWatchdog: "soon"}, true, 0, "WATCHDOG_USEC"},
		"no time":                 {env{envSocket: "@x", envWatchdog: "0"}, true, 0, "WATCHDOG_USEC"},
		"longer than a time":      {env{envSocket: "@x", envWatchdog: "9223372036854775807"}, true, 0, "WATCHDOG_USEC"},
		"an empty name is nobody": {env{envSocket: ""}, false, 0, ""},
	} {
		n, err := New(c.env.lookup, 42)
		if n.Enabled() != c.enabled || n.WatchdogInterval() != c.watchdog || (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: enabled %v, watchdog %v, %v", name, n.Enabled(), n.WatchdogInterval(), err)
		}
	}
}

func TestStatesArriveAsOneMessage(t *testing.T) {
	names := []string{filepath.Join(t.TempDir(), "n")}
	if runtime.GOOS == "linux" {
		names = append(names, fmt.Sprintf("@rollout-sdnotify-%d", os.Getpid()))
	}
	for _, name := range names {
		l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		n, err := New(env{envSocket: name}.lookup, 1)
		if err != nil {
			t.Fatal(err)
		}
		if err := n.Send(Ready, Status("two\nlines")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 100)
		got, err := l.Read(buf)
		if err != nil || string(buf[:got]) != "READY=1\nSTATUS=two; lines" {
			t.Errorf("%s: %q, %v", name, buf[:got], err)
		}
	}
}

func TestNobodyIsNoErrorAndAVanishedManagerIsOne(t *testing.T) {
	if err := (Notifier{}).Send(Ready); err != nil {
		t.Errorf("nobody: %v", err)
	}
	n, err := New(env{envSocket: filepath.Join(t.TempDir(), "gone")}.lookup, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Send(Ready); err == nil {
		t.Error("a socket that is not there takes messages")
	}
}

func TestReloadingCarriesItsMoment(t *testing.T) {
	got := Reloading()
	if !strings.HasPrefix(got, "RELOADING=1") || runtime.GOOS == "linux" && !strings.Contains(got, "\nMONOTONIC_USEC=") {
		t.Errorf("it says %q", got)
	}
}
