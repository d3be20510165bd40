package pluginhost

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// rudeCases are sidecars that break the start or the first call.
var rudeCases = []struct {
	name     string
	protocol core.SidecarProtocol
	code     string // of a Python program
	want     core.Code
	text     string
	start    time.Duration // start_timeout; 0: patience
}{
	{name: "prints before the handshake", protocol: core.ProtocolGRPC, code: `print("hello from my plugin", flush=True); import time; time.sleep(1000)`,
		want: core.CodePluginContract, text: "hello from my plugin"},
	{name: "no handshake", protocol: core.ProtocolGRPC, code: `import time; time.sleep(1000)`,
		want: core.CodeDeadlineExceeded, text: "start_timeout", start: time.Second},
	{name: "a line of 10 MiB", protocol: core.ProtocolGRPC, code: `import sys; sys.stdout.write("x" * (10 << 20)); sys.stdout.flush(); import time; time.sleep(1000)`,
		want: core.CodePluginContract, text: "handshake"},
	{name: "wrong core version", protocol: core.ProtocolGRPC, code: `print("9|1|unix|/x|grpc", flush=True); import time; time.sleep(1000)`,
		want: core.CodePluginContract, text: `core protocol version "9"`},
	{name: "wrong protocol version", protocol: core.ProtocolGRPC, code: `print("1|7|unix|/x|grpc", flush=True); import time; time.sleep(1000)`,
		want: core.CodePluginContract, text: `protocol version "7"`},
	{name: "wrong cookie", protocol: core.ProtocolGRPC, code: `import sys; sys.exit("this binary is a plugin, bad cookie")`,
		want: core.CodePluginCrashed, text: "bad cookie"},
	{name: "symlinked socket", protocol: core.ProtocolGRPC, code: `
import os, time
p = os.path.join(os.environ["PLUGIN_UNIX_SOCKET_DIR"], "s")
os.symlink("/tmp/elsewhere", p)
print("1|1|unix|%s|grpc" % p, flush=True)
time.sleep(1000)`, want: core.CodePluginContract, text: "no socket"},
	{name: "socket elsewhere", protocol: core.ProtocolGRPC, code: `print("1|1|unix|/tmp/x.sock|grpc", flush=True); import time; time.sleep(1000)`,
		want: core.CodePluginContract, text: "outside PLUGIN_UNIX_SOCKET_DIR"},
	{name: "over-long socket path", protocol: core.ProtocolGRPC, code: `print("1|1|unix|/" + "x" * 300 + "|grpc", flush=True); import time; time.sleep(1000)`,
		want: core.CodePluginContract, text: "at most 107"},
	{name: "dies at once", protocol: core.ProtocolFramed, code: `import sys; sys.exit("no licence")`,
		want: core.CodePluginCrashed, text: "no licence"},
	{name: "closes the stream", protocol: core.ProtocolFramed, code: `import os, time; os.close(3); time.sleep(1000)`,
		want: core.CodePluginCrashed, text: "before hello"},
	{name: "speaks HTTP", protocol: core.ProtocolFramed, code: `import os, time; os.write(3, b"HTTP/1.1 200 OK\r\n\r\n"); time.sleep(1000)`,
		want: core.CodePluginContract, text: "length"},
	{name: "wrong framed version", protocol: core.ProtocolFramed, code: `
import os, struct, time
b = b'{"magic":"rollout-plugin","version":2}'
os.write(3, struct.pack(">IBQ", 9 + len(b), 1, 0) + b)
time.sleep(1000)`, want: core.CodePluginContract, text: "version 2"},
	{name: "slow start", protocol: core.ProtocolFramed, code: `import time; time.sleep(1000)`,
		want: core.CodeDeadlineExceeded, text: "start_timeout", start: time.Second},
	{name: "no socket", protocol: core.ProtocolFramedJSON, code: `import time; time.sleep(1000)`,
		want: core.CodeDeadlineExceeded, text: "does not listen", start: time.Second},
	{name: "a file for a socket", protocol: core.ProtocolFramedJSON, code: `import sys, time; open(sys.argv[-1], "w").close(); time.sleep(1000)`,
		want: core.CodePluginContract, text: "no socket"},
}

// TestR26RudeSidecars starts sidecars without manners: each gives a typed error
// that says what it did, within its start_timeout, and leaves nothing.
func TestR26RudeSidecars(t *testing.T) {
	for _, tc := range rudeCases {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h, _ := testHost(t, nil)
			dir := writeFiles(t, map[string]string{"rude.py": tc.code})
			m := pythonManifest(dir, "rude", "")
			m.Sidecar = core.SidecarEntry{Command: []string{"python3", "rude.py"}, Protocol: tc.protocol}
			if tc.start > 0 {
				m.Runtime.StartTimeout = tc.start
			}
			_, err := h.Load(context.Background(), m)
			if !core.IsCode(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v (%v), want %v with %q", err, core.CodeOf(err), tc.want, tc.text)
			}
		})
	}
}

// framedRude says a proper hello and then answers the first call with what it is given.
const framedRude = `
import os, struct, time
def frame(kind, ident, body): return struct.pack(">IBQ", 9 + len(body), kind, ident) + body
os.read(3, 1 << 16)
os.write(3, frame(1, 0, b'{"magic":"rollout-plugin","version":1}'))
head = os.read(3, 1 << 16)
ident = struct.unpack_from(">Q", head, 5)[0]
%s
time.sleep(1000)
`

// TestR26RudeAnswers calls sidecars that answer badly: a typed error each, and the
// plugin is replaced.
func TestR26RudeAnswers(t *testing.T) {
	for name, tc := range map[string]struct {
		code string
		want core.Code
		text string
	}{
		"oversize length": {`os.write(3, b"\x7f\xff\xff\xff" + b"x" * 100)`, core.CodePluginContract, "length"},
		"half a reply":    {`os.write(3, frame(4, ident, b"x" * 100)[:50]); os._exit(0)`, core.CodePluginCrashed, "exit status 0"},
		"foreign id":      {`os.write(3, frame(4, 4711, b""))`, core.CodePluginContract, "4711"},
		"wrong type":      {`os.write(3, frame(2, ident, b""))`, core.CodePluginContract, "call"},
		"closes":          {`os.close(3)`, core.CodePluginCrashed, "rude"},
		"dies":            {`os.kill(os.getpid(), 11)`, core.CodePluginCrashed, "segmentation fault"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, rec := testHost(t, quickRestart)
			dir := writeFiles(t, map[string]string{"rude.py": fmt.Sprintf(framedRude, tc.code)})
			m := pythonManifest(dir, "rude", "")
			m.Sidecar = core.SidecarEntry{Command: []string{"python3", "rude.py"}, Protocol: core.ProtocolFramed}
			mustLoad(t, h, m)
			_, err := h.Call(context.Background(), "rude", "x", nil)
			if !core.IsCode(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v (%v), want %v with %q", err, core.CodeOf(err), tc.want, tc.text)
			}
			rec.wait(t, "restart", func(ev core.PluginEvent) bool { return ev.Topic == core.TopicPluginRestarted })
		})
	}
}
