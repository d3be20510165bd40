package pluginhost

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
	"github.com/rollout-substrate/rollout/pkg/pluginsdk"
)

// jsonSample is a plugin for the Rust original's wire, written as its sample is.
const jsonSample = `
import json, os, socket, struct, sys, time

def serve(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(1)
    conn, _ = listener.accept()
    stream = conn.makefile("rwb")
    while True:
        head = stream.read(4)
        if len(head) < 4:
            return
        request = json.loads(stream.read(struct.unpack(">I", head)[0]))
        method, payload = request["method"], request["payload"]
        if method == "Init":
            reply = {"version": "0.1.0"}
        elif method == "echo":
            reply = {"payload": payload}
        elif method == "sleep":
            time.sleep(float(payload))
            reply = {}
        elif method == "die":
            os._exit(3)
        elif method == "config":
            reply = {"config": payload}
        elif method == "Shutdown":
            reply = {"ack": True}
        else:
            reply = {"error": "unknown method " + method}
        body = json.dumps(reply, separators=(",", ":")).encode()
        stream.write(struct.pack(">I", len(body)) + body)
        stream.flush()
        if method == "Shutdown":
            return

serve(sys.argv[-1])
`

// pythonSampleFixture describes samplePlugin.
func pythonSampleFixture(h *Host, m core.Manifest) *coretest.PluginHostFixture {
	named := func(name string) core.Manifest {
		m := m
		m.Name = name
		return m
	}
	return &coretest.PluginHostFixture{
		Host: h, Manifest: named,
		Broken: func(name string) core.Manifest {
			m := named(name)
			m.Config = map[string]any{"fail": "no weights"}
			return m
		},
		BrokenText: "no weights",
		Echo:       "echo",
		Fail:       coretest.PluginCall{Method: "raise", Payload: "broken thing"}, FailText: "broken thing",
		Hint:    coretest.PluginCall{Method: "retry"},
		Huge:    coretest.PluginCall{Method: "huge", Payload: strconv.Itoa(core.MaxCallPayload + 1)},
		Unknown: "nothing",
		Hang:    coretest.PluginCall{Method: "sleep", Payload: "60"},
		Crash:   coretest.PluginCall{Method: "exit", Payload: "3"},
	}
}

func TestKitFramed(t *testing.T) {
	dir := writeFiles(t, map[string]string{"sample.py": samplePlugin})
	coretest.RunPluginHost(t, func(t *testing.T) *coretest.PluginHostFixture {
		t.Parallel()
		h, _ := testHost(t, nil)
		m := pythonManifest(dir, "p", "sample")
		m.Runtime.Concurrency = 8 // one call at a time is tried without launcher
		return pythonSampleFixture(h, m)
	})
}

func TestKitWithoutLauncher(t *testing.T) {
	dir := writeFiles(t, map[string]string{"sample.py": samplePlugin})
	coretest.RunPluginHost(t, func(t *testing.T) *coretest.PluginHostFixture {
		t.Parallel()
		h, _ := testHost(t, func(c *Config) { c.Launcher = nil })
		return pythonSampleFixture(h, pythonManifest(dir, "p", "sample"))
	})
}

func TestKitFramedJSON(t *testing.T) {
	dir := writeFiles(t, map[string]string{"original.py": jsonSample})
	coretest.RunPluginHost(t, func(t *testing.T) *coretest.PluginHostFixture {
		t.Parallel()
		h, _ := testHost(t, nil)
		return &coretest.PluginHostFixture{
			Host: h,
			Manifest: func(name string) core.Manifest {
				m := pythonManifest(dir, name, "")
				m.Sidecar = core.SidecarEntry{Command: []string{"python3", "-m", "original"}, Protocol: core.ProtocolFramedJSON}
				return m
			},
			Echo: "echo",
			Wrap: func(payload []byte) []byte {
				b, err := json.Marshal(map[string]string{"payload": string(payload)})
				if err != nil {
					t.Error(err)
				}
				return b
			},
			Fail: coretest.PluginCall{Method: "fail"}, FailText: "unknown method fail",
			Hang:     coretest.PluginCall{Method: "sleep", Payload: "60"},
			Crash:    coretest.PluginCall{Method: "die"},
			TextOnly: true,
		}
	})
}

// grpcPython returns an interpreter that has grpcio.
func grpcPython(t testing.TB) string {
	t.Helper()
	for _, path := range []string{"python3", "/usr/bin/python3"} {
		full, err := exec.LookPath(path)
		if err == nil && exec.Command(full, "-c", "import grpc, sys; assert sys.version_info >= (3, 11)").Run() == nil {
			return full
		}
	}
	t.Skip("SKIPPED: no Python with grpcio on this machine (Debian: python3-grpcio), gRPC from Python is not tried")
	return ""
}

func TestKitGRPCPython(t *testing.T) {
	interpreter := grpcPython(t)
	dir := writeFiles(t, map[string]string{"sample.py": samplePlugin})
	coretest.RunPluginHost(t, func(t *testing.T) *coretest.PluginHostFixture {
		t.Parallel()
		h, _ := testHost(t, nil)
		m := pythonManifest(dir, "p", "sample")
		m.Runtime.Interpreter = interpreter
		m.Sidecar.Protocol = core.ProtocolGRPC
		return pythonSampleFixture(h, m)
	})
}

func TestKitGRPCGo(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(exe, filepath.Join(dir, "plugin")); err != nil {
		t.Fatal(err)
	}
	coretest.RunPluginHost(t, func(t *testing.T) *coretest.PluginHostFixture {
		t.Parallel()
		h, _ := testHost(t, func(c *Config) { c.LookupEnv = grpcRoleEnv })
		m := pythonManifest(dir, "p", "")
		m.Runtime.Concurrency = 8
		m.Sidecar = core.SidecarEntry{Command: []string{"./plugin"}, Protocol: core.ProtocolGRPC, EnvAllow: []string{roleVar, "GORACE"}}
		m.Sandbox.Read = []string{exe}
		return pythonSampleFixture(h, m)
	})
}

// goSample answers the methods of samplePlugin over gRPC; see [playRole].
type goSample struct{ config map[string]any }

// Init implements pluginsdk.Initer.
func (s *goSample) Init(_ context.Context, config json.RawMessage) error {
	if err := json.Unmarshal(config, &s.config); err != nil {
		return err
	}
	if text, ok := s.config["fail"].(string); ok {
		return errors.New(text)
	}
	return nil
}

// Call implements pluginsdk.Plugin.
func (s *goSample) Call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	switch method {
	case "echo":
		return payload, nil
	case "raise":
		return nil, errors.New(string(payload))
	case "retry":
		return nil, core.Errorf("", core.CodePluginError, "busy").WithRetry(core.RetryHint{Kind: core.RetryAfter, After: 2500 * time.Millisecond})
	case "huge":
		n, err := strconv.Atoi(string(payload))
		return make([]byte, n), err
	case "sleep":
		<-ctx.Done()
		return nil, ctx.Err()
	case "exit":
		fmt.Fprintln(os.Stderr, "last words")
		os.Exit(3)
	}
	return nil, pluginsdk.ErrUnknownMethod
}
