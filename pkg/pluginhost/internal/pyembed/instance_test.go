//go:build cgo && linux

package pyembed

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestCalls(t *testing.T) {
	s := spec(t, "habits", "habits")
	s.Config = json.RawMessage(`{"a":1,"b":"ü"}`)
	i := start(t, s)
	for _, n := range []int{0, 1, 100, 64 << 10, core.MaxCallPayload} {
		payload := bytes.Repeat([]byte{0, 0xff, 'a'}, n/3+1)[:n]
		out, err := i.Call(t.Context(), "echo", payload)
		if err != nil || !bytes.Equal(out, payload) {
			t.Fatalf("echo of %d bytes: %d bytes, %v", n, len(out), err)
		}
	}
	for method, want := range map[string]string{
		"ready":     "1",
		"config":    "[('a', 1), ('b', 'ü')]",
		"helper":    "helper of habits",
		"lazy":      "lazy of habits",
		"bytearray": "x",
		"threads":   "0",
	} {
		payload := "x"
		if method == "threads" {
			payload = "0"
		}
		if got := mustCall(t, i, method, payload); got != want {
			t.Errorf("%s = %q, want %q", method, got, want)
		}
	}
}

func TestInterpreterIsTheOneNamed(t *testing.T) {
	i := start(t, spec(t, "habits", "habits"))
	about := strings.Split(mustCall(t, i, "about", ""), "\n")
	lib := interpreter(t).lib
	if about[0] != lib.Executable {
		t.Errorf("sys.executable = %s, want %s", about[0], lib.Executable)
	}
	if !strings.HasPrefix(lib.Version, about[2]+".") {
		t.Errorf("version %s runs, want %s", about[2], lib.Version)
	}
	if filepath.Base(about[3]) != "habits" {
		t.Errorf("sys.path begins with %s", about[3])
	}
}

func TestErrorsAreTyped(t *testing.T) {
	i := start(t, spec(t, "habits", "habits"))
	tests := []struct {
		method string
		code   core.Code
		text   string
	}{
		{"raise", core.CodePluginError, "KeyError: 'as asked'"},
		{"raise", core.CodePluginError, "habits.py"}, // the traceback
		{"exit", core.CodePluginError, "SystemExit: 3"},
		{"text", core.CodePluginError, "call returned str, not bytes"},
		{"none", core.CodePluginError, "NoneType"},
		{"huge", core.CodeTooLarge, "16777217 bytes"},
		{"recurse", core.CodePluginError, "RecursionError"},
		{"unheard_of", core.CodePluginError, "do_unheard_of"},
		{"plugin_error", core.CodePluginError, "later"},
		{"bad_str", core.CodePluginError, ""},
	}
	for _, tt := range tests {
		out, err := i.Call(t.Context(), tt.method, []byte("x"))
		if out != nil || !core.IsCode(err, tt.code) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%s: %d bytes, %v %v", tt.method, len(out), core.CodeOf(err), err)
		}
	}
	_, err := i.Call(t.Context(), "plugin_error", nil)
	if got, want := core.RetryOf(err), (core.RetryHint{Kind: core.RetryAfter, After: 1500 * time.Millisecond}); got != want {
		t.Errorf("retry = %v, want %v", got, want)
	}
	if got := mustCall(t, i, "echo", "still here"); got != "still here" {
		t.Errorf("echo = %q", got)
	}
}

func TestBatch(t *testing.T) {
	for _, factory := range []string{"create_plugin", "create_single"} {
		s := spec(t, "habits", "habits")
		s.Factory = factory
		i := start(t, s)
		payloads := make([][]byte, core.MaxBatchLen)
		for n := range payloads {
			payloads[n] = fmt.Appendf(nil, "payload %d", n)
		}
		payloads[1], payloads[2] = nil, []byte("bad")
		results, err := i.CallBatch(t.Context(), "echo", payloads)
		if err != nil || len(results) != len(payloads) {
			t.Fatalf("%s: %d results, %v", factory, len(results), err)
		}
		for n, r := range results {
			if n == 2 {
				if !core.IsCode(r.Err, core.CodePluginError) || !strings.Contains(r.Err.Error(), "bad item") {
					t.Errorf("%s: bad item: %q, %v", factory, r.Result, r.Err)
				}
			} else if r.Err != nil || !bytes.Equal(r.Result, payloads[n]) {
				t.Fatalf("%s: item %d: %q, %v", factory, n, r.Result, r.Err)
			}
		}
	}
	i := start(t, spec(t, "habits", "habits"))
	for _, method := range []string{"short", "raise"} {
		if results, err := i.CallBatch(t.Context(), method, [][]byte{{1}, {2}}); results != nil || !core.IsCode(err, core.CodePluginError) {
			t.Errorf("%s: %v, %v", method, results, err)
		}
	}
	big := make([]byte, core.MaxCallPayload)
	if results, err := i.CallBatch(t.Context(), "echo", [][]byte{{1}, big, big, {2}}); err != nil || len(results) != 4 || len(results[2].Result) != len(big) {
		t.Errorf("large batch: %d results, %v", len(results), err)
	}
}

func TestFailedStarts(t *testing.T) {
	in := interpreter(t)
	tests := []struct {
		change func(*Spec)
		text   string
	}{
		{func(s *Spec) { s.Module = "no_such_module" }, "no_such_module"},
		{func(s *Spec) { s.Factory = "no_such_factory" }, "no function no_such_factory"},
		{func(s *Spec) { s.Factory = "create_nothing" }, "no method call"},
		{func(s *Spec) { s.Config = json.RawMessage(`{"refuse":true}`) }, "refused by config"},
		{func(s *Spec) { s.Config = json.RawMessage(`{"unfit":true}`) }, "unfit by config"},
	}
	for _, tt := range tests {
		s := spec(t, "habits", "habits")
		tt.change(&s)
		if _, err := in.Start(t.Context(), s); !core.IsCode(err, core.CodePluginError) || !strings.Contains(err.Error(), tt.text) {
			t.Errorf("%v, want %q", err, tt.text)
		}
	}
}

func TestPrintedLinesAreLogged(t *testing.T) {
	var printed lines
	s := spec(t, "habits", "habits")
	s.Log = printed.add
	i := start(t, s)
	mustCall(t, i, "print", "first\nsecond ü")
	mustCall(t, i, "thread_print", "")
	mustCall(t, i, "print", strings.Repeat("x", 10000))
	stop(t, i)
	text := printed.text()
	for _, want := range []string{"first\n", "second ü", "to stderr", "bytes\n", "not whole", "from a thread"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q was not logged:\n%s", want, text)
		}
	}
	if n := strings.Count(text, "x"); n < 10000 {
		t.Errorf("%d of 10000 bytes of a long line were logged", n)
	}
}

func TestStopRunsShutdown(t *testing.T) {
	marker := filepath.Join(t.TempDir(), "marker")
	s := spec(t, "habits", "habits")
	s.Config = json.RawMessage(fmt.Sprintf(`{"marker":%q}`, marker))
	i := start(t, s)
	stop(t, i)
	stop(t, i)
	if b, err := os.ReadFile(marker); err != nil || string(b) != "shutdown\n" {
		t.Errorf("marker = %q, %v", b, err)
	}
	if _, err := i.Call(t.Context(), "echo", nil); !core.IsCode(err, core.CodeClosed) {
		t.Errorf("call after stop: %v", err)
	}
}

func TestManyCallersAndInstances(t *testing.T) {
	instances := []*Instance{start(t, spec(t, "habits", "habits")), start(t, spec(t, "habits", "habits"))}
	var callers sync.WaitGroup
	for c := range 32 {
		callers.Go(func() {
			for n := range 200 {
				want := fmt.Sprintf("%d/%d", c, n)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				out, err := instances[c%2].Call(ctx, "echo", []byte(want))
				cancel()
				if err != nil || string(out) != want {
					t.Errorf("echo of %s: %q, %v", want, out, err)
					return
				}
			}
		})
	}
	callers.Wait()
}

// TestTextIsUTF8 runs without a locale, as services often do: files and names are
// UTF-8 all the same, as they are for the interpreter's own program.
func TestTextIsUTF8(t *testing.T) {
	if os.Getenv("LC_ALL") != "C" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestTextIsUTF8$", "-test.count=1")
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if got := mustCall(t, start(t, spec(t, "habits", "habits")), "encoding", ""); got != "utf-8 utf-8" {
		t.Errorf("encodings of files and of their names: %s", got)
	}
}

// TestLockHog lets C code keep the interpreter's lock: Python stands still, but
// whoever waits for it leaves in time, and so does everything that is not Python.
func TestLockHog(t *testing.T) {
	hog, other := start(t, spec(t, "habits", "habits")), start(t, spec(t, "habits", "habits"))
	hogged := make(chan error, 1)
	r, w := pipe(t)
	go func() {
		_, err := hog.Call(context.Background(), "hog", fmt.Appendf(nil, "%d 1500000", w.Fd()))
		hogged <- err
	}()
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var err error
	for err == nil { // until the hog has the lock
		_, err = other.Call(ctx, "echo", nil)
	}
	if !core.IsCode(err, core.CodeDeadlineExceeded) {
		t.Errorf("call beside the hog: %v", err)
	}
	if _, err := interpreter(t).Start(ctx, spec(t, "habits", "habits")); !core.IsCode(err, core.CodeDeadlineExceeded) {
		t.Errorf("start beside the hog: %v", err)
	}
	if err := <-hogged; err != nil {
		t.Errorf("the hog: %v", err)
	}
	if got := mustCall(t, other, "echo", "not poisoned"); got != "not poisoned" {
		t.Errorf("echo = %q", got)
	}
}
