package cli

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
	"github.com/rollout-substrate/rollout/pkg/worker"
)

// fakePlugin is a worker's executor with one plugin, which is a function.
type fakePlugin struct {
	name   string
	answer func(ctx context.Context, it core.WorkItem) ([]byte, error)
}

func (f fakePlugin) Init(context.Context, core.WorkerInfo) error { return nil }
func (f fakePlugin) Ready(context.Context) error                 { return nil }
func (f fakePlugin) Fence(string)                                {}
func (f fakePlugin) Drain(context.Context) error                 { return nil }
func (f fakePlugin) Shutdown(context.Context) error              { return nil }

func (f fakePlugin) Execute(ctx context.Context, items []core.WorkItem) []core.WorkResult {
	out := make([]core.WorkResult, len(items))
	for i, it := range items {
		out[i].Lease = it.Lease
		out[i].Result, out[i].Err = f.answer(ctx, it)
	}
	return out
}

func (f fakePlugin) LoadedPlugins() []core.LoadedPlugin {
	return []core.LoadedPlugin{{Name: f.name, Version: "0.1.0", Digest: strings.Repeat("ab", 32), Mode: core.ModePython}}
}

// echo answers the payload.
func echo(_ context.Context, it core.WorkItem) ([]byte, error) { return it.Payload, nil }

// fakeWorker runs a worker whose plugin "fake" answers by a function, until the test
// ends or stop is called, which drains it.
func (s *site) fakeWorker(name string, answer func(context.Context, core.WorkItem) ([]byte, error)) (stop func()) {
	s.t.Helper()
	store := memstore.New(memstore.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- worker.Run(ctx, worker.Config{
			Store: store, Addr: s.addr, TLSDir: s.tls(), IdentityDir: s.path(name, "identity"), Slots: 4,
			Executor: fakePlugin{"fake", answer},
		})
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("the worker ends with %v", err)
		}
		if err := store.Close(); err != nil {
			s.t.Error(err)
		}
	}
	s.t.Cleanup(stop)
	return stop
}

// input writes a JSONL file.
func (s *site) input(lines ...string) string {
	s.t.Helper()
	path := s.path("in.jsonl")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// coordinatorChild is a coordinator in a process of its own, which can be killed. Its
// events go to a file, so that nobody has to read them.
func (s *site) coordinatorChild() *exec.Cmd {
	s.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	log, err := os.OpenFile(s.path("coordinator.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close() // the child has its own
	c := exec.Command(exe, "--data-dir", s.path("c"))
	c.Env = append(os.Environ(), childEnv+"=coordinator")
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { kill(s.t, c) })
	return c
}

// kill ends a child as a power cut would.
func kill(t *testing.T, c *exec.Cmd) {
	t.Helper()
	if c.ProcessState != nil {
		return
	}
	if err := c.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = c.Wait() // it tells the signal
}

// absent reports whether nothing lies at a path.
func absent(path string) bool {
	_, err := os.Lstat(path)
	return os.IsNotExist(err)
}
