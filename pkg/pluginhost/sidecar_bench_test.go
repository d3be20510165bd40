package pluginhost

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginsdk"
	pluginv1 "github.com/rollout-substrate/rollout/proto/rollout/plugin/v1"
)

// barePlugin does nothing, so that the way there and back is all that is measured.
const barePlugin = `
class Bare:
    def call(self, method, payload):
        return payload

def create_plugin():
    return Bare()
`

// rawEcho is the least that a Python process can do with length-prefixed messages:
// it reads many at once and answers them together, with no protocol around them.
const rawEcho = `
import socket, struct
sock = socket.socket(fileno=3)
length = struct.Struct(">I").unpack_from
rest = b""
while True:
    data = sock.recv(1 << 18)
    if not data:
        break
    data = rest + data if rest else data
    at, end, out = 0, len(data), []
    while end - at >= 4:
        n = length(data, at)[0]
        if end - at - 4 < n:
            break
        out.append(data[at:at + 4 + n])
        at += 4 + n
    rest = data[at:]
    if out:
        sock.sendall(b"".join(out))
`

// rawClient speaks to rawEcho.
type rawClient struct{ conn net.Conn }

func startRawEcho(b *testing.B) *rawClient {
	conn, child, err := streamPair()
	if err != nil {
		b.Fatal(err)
	}
	py, err := (&pythons{}).find(context.Background(), "", os.LookupEnv)
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.Command(py.Executable, filepath.Join(writeFiles(b, map[string]string{"raw.py": rawEcho}), "raw.py"))
	cmd.ExtraFiles, cmd.Stderr = []*os.File{child}, os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	_ = child.Close() // the child has it
	b.Cleanup(func() {
		_ = conn.Close() // ends the child
		if err := cmd.Wait(); err != nil {
			b.Error(err)
		}
	})
	return &rawClient{conn: conn}
}

// alone makes n calls one after another, reading on the caller's own goroutine: the
// limit of what one caller can have, as long as nobody else calls.
func (c *rawClient) alone(b *testing.B, payload []byte, n int) {
	msg := append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), payload...)
	answer := make([]byte, len(msg))
	for range n {
		if _, err := c.conn.Write(msg); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c.conn, answer); err != nil {
			b.Fatal(err)
		}
	}
}

// shared makes calls from many callers: each writes its own message, one reader
// hands the answers back in order.
func (c *rawClient) shared(b *testing.B, payload []byte, callers int) {
	msg := append(binary.BigEndian.AppendUint32(nil, uint32(len(payload))), payload...)
	var mu sync.Mutex // orders writes as waiting is ordered
	waiting := make(chan chan []byte, callers)
	var reader sync.WaitGroup
	reader.Go(func() {
		br := bufio.NewReaderSize(c.conn, 64<<10)
		for answer := range waiting {
			got := make([]byte, len(msg))
			if _, err := io.ReadFull(br, got); err != nil {
				b.Error(err)
			}
			answer <- got
		}
	})
	callFrom(b, callers, func(n int) {
		answer := make(chan []byte, 1)
		for range n {
			mu.Lock()
			waiting <- answer
			_, err := c.conn.Write(msg)
			mu.Unlock()
			if err != nil {
				b.Error(err)
				return
			}
			<-answer
		}
	})
	close(waiting)
	reader.Wait()
}

// BenchmarkFramed sets calls of a framed Python sidecar beside bare messages to a
// bare loop in Python.
func BenchmarkFramed(b *testing.B) {
	h, _ := testHost(b, nil)
	m := pythonManifest(writeFiles(b, map[string]string{"bare.py": barePlugin}), "bare", "bare")
	m.Runtime.Concurrency = 64
	mustLoad(b, h, m)
	payload := bytes.Repeat([]byte{'x'}, 100)
	b.Run("callers=1/limit=alone", func(b *testing.B) {
		raw := startRawEcho(b)
		callFrom(b, 1, func(n int) { raw.alone(b, payload, n) })
	})
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d/baseline=raw", callers), func(b *testing.B) { startRawEcho(b).shared(b, payload, callers) })
		b.Run(fmt.Sprintf("callers=%d/call", callers), func(b *testing.B) {
			b.ReportAllocs()
			callFrom(b, callers, func(n int) {
				for range n {
					if _, err := h.Call(context.Background(), "bare", "echo", payload); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
	b.Run("start-and-stop", func(b *testing.B) {
		m.Name = "again"
		var start, stop time.Duration
		for b.Loop() {
			start += mustLoad(b, h, m).Start
			began := time.Now()
			if err := h.Unload(context.Background(), "again"); err != nil {
				b.Fatal(err)
			}
			stop += time.Since(began)
		}
		b.ReportMetric(float64(start.Microseconds())/1e3/float64(b.N), "start-ms")
		b.ReportMetric(float64(stop.Microseconds())/1e3/float64(b.N), "stop-ms")
	})
}

// BenchmarkGRPC sets calls of gRPC sidecars beside go-plugin's own client on the
// same program.
func BenchmarkGRPC(b *testing.B) {
	h, _ := testHost(b, func(c *Config) { c.LookupEnv = grpcRoleEnv })
	payload := bytes.Repeat([]byte{'x'}, 100)
	exe := testLauncher(b)[0]
	g := pythonManifest(b.TempDir(), "go", "")
	g.Runtime.Concurrency = 64
	g.Sidecar = core.SidecarEntry{Command: []string{exe}, Protocol: core.ProtocolGRPC, EnvAllow: []string{roleVar}}
	mustLoad(b, h, g)
	compareGRPC(b, "go", "go-plugin", h, rawGRPC(b, exe, "", []string{roleVar + "=grpc"}), payload)

	interpreter := grpcPython(b)
	dir := writeFiles(b, map[string]string{"bare.py": barePlugin, "raw_grpc.py": rawGRPCPython})
	p := pythonManifest(dir, "python", "bare")
	p.Runtime.Interpreter, p.Runtime.Concurrency, p.Sidecar.Protocol = interpreter, 64, core.ProtocolGRPC
	mustLoad(b, h, p)
	compareGRPC(b, "python", "grpcio", h, rawGRPC(b, interpreter, filepath.Join(dir, "raw_grpc.py"), nil), payload)
}

// compareGRPC measures one sidecar through the host and another without it.
func compareGRPC(b *testing.B, plugin, baseline string, h *Host, raw pluginv1.PluginClient, payload []byte) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("%s/callers=%d/baseline=%s", plugin, callers, baseline), func(b *testing.B) {
			callFrom(b, callers, func(n int) {
				for range n {
					if _, err := raw.Call(context.Background(), &pluginv1.CallRequest{Method: "echo", Payload: payload}); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
		b.Run(fmt.Sprintf("%s/callers=%d/call", plugin, callers), func(b *testing.B) {
			callFrom(b, callers, func(n int) {
				for range n {
					if _, err := h.Call(context.Background(), plugin, "echo", payload); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// rawGRPCPython answers Call with grpcio and nothing else. Its reply has the
// request's second field as its first, which for small payloads is a matter of one
// byte.
const rawGRPCPython = `
import concurrent.futures, os, sys, time, grpc

def call(request, context):
    return b"\x0a" + request[request[1] + 3:]

server = grpc.server(concurrent.futures.ThreadPoolExecutor(64))
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(
    "rollout.plugin.v1.Plugin", {"Call": grpc.unary_unary_rpc_method_handler(call)}),))
path = os.path.join(os.environ["TMPDIR"], "raw.sock")
server.add_insecure_port("unix:" + path)
server.start()
print("1|1|unix|%s|grpc" % path, flush=True)
time.sleep(1000)
`

// grpcRoleEnv makes the test binary play the Go sample when it is a sidecar.
func grpcRoleEnv(name string) (string, bool) {
	if name == roleVar {
		return "grpc", true
	}
	return os.LookupEnv(name)
}

// rawGRPC starts a sidecar with nothing but go-plugin.
func rawGRPC(b *testing.B, exe, script string, env []string) pluginv1.PluginClient {
	cmd := exec.Command(exe)
	if script != "" {
		cmd.Args = append(cmd.Args, script)
	}
	cmd.Env = append(env, "TMPDIR="+b.TempDir())
	client := goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{ProtocolVersion: pluginsdk.ProtocolVersion, MagicCookieKey: pluginsdk.CookieKey, MagicCookieValue: pluginsdk.CookieValue},
		Plugins:          goplugin.PluginSet{pluginsdk.PluginName: &goplugin.NetRPCUnsupportedPlugin{}},
		Cmd:              cmd,
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		Logger:           hclog.NewNullLogger(),
		GRPCDialOptions:  []grpc.DialOption{grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxGRPCMessage))},
	})
	b.Cleanup(client.Kill)
	proto, err := client.Client()
	if err != nil {
		b.Fatal(err)
	}
	return pluginv1.NewPluginClient(proto.(*goplugin.GRPCClient).Conn)
}
