package pyembed

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/ctest"
)

// pythonEnv names the interpreter that a test process embeds; empty: the first on PATH.
const pythonEnv = "ROLLOUT_TEST_PYTHON"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pythons remembers the library for all tests of the process.
var pythons = sync.OnceValue(func() *Finder { return &Finder{} })

// interpreter opens the process's Python.
func interpreter(t testing.TB) *Interpreter {
	t.Helper()
	lib, err := pythons().Find(t.Context(), Request{Interpreter: os.Getenv(pythonEnv), SearchPath: os.Getenv("PATH")})
	if err != nil {
		t.Skipf("SKIPPED: this machine has no Python that can be embedded: %v", err)
	}
	in, err := Open(lib, filepath.Join(ctest.Root(t), "python"))
	if err != nil {
		t.Fatal(err)
	}
	return in
}

// lines collects what a plugin prints.
type lines struct {
	mu   sync.Mutex
	list []string
}

func (l *lines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, line)
}

func (l *lines) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.list, "\n")
}

// spec is a plugin of testdata. Each test has a name of its own, so that imported
// modules are too.
func spec(t testing.TB, dir, module string) Spec {
	t.Helper()
	abs, err := filepath.Abs(filepath.Join("testdata", dir))
	if err != nil {
		t.Fatal(err)
	}
	return Spec{
		Plugin: t.Name() + "/" + dir, Digest: "1", Dir: abs, Module: module, Factory: "create_plugin",
		Config: json.RawMessage(`{}`),
	}
}

// start starts an instance that the test's end stops.
func start(t testing.TB, s Spec) *Instance {
	t.Helper()
	i, err := interpreter(t).Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, i) })
	return i
}

func stop(t testing.TB, i *Instance) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := i.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
	waitEnded(t, i)
}

// waitEnded waits until the instance's thread is gone.
func waitEnded(t testing.TB, i *Instance) {
	t.Helper()
	select {
	case <-i.ended:
	case <-time.After(30 * time.Second):
		t.Error("the thread has not ended")
	}
}

func mustCall(t testing.TB, i *Instance, method, payload string) string {
	t.Helper()
	out, err := i.Call(t.Context(), method, []byte(payload))
	if err != nil {
		t.Fatalf("%s: %v", method, err)
	}
	return string(out)
}
