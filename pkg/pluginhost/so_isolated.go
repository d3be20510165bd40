package pluginhost

import (
	"context"
	"net"
	"os"
	"strconv"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/cabi"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/framed"
)

// soServer is a shared library that a process of its own serves to the host over
// framed calls. [soServer.args] and [parseSOServer] carry it from one process to
// the other.
type soServer struct {
	path        string // absolute
	symbol      string
	sha256      string // lower-case hex, or empty for no pin
	concurrency int    // calls at once, if the library is thread-safe
}

// args is the server as four arguments of a command line.
func (s soServer) args() []string {
	return []string{s.path, s.symbol, s.sha256, strconv.Itoa(s.concurrency)}
}

func parseSOServer(args []string) (soServer, error) {
	if len(args) != 4 {
		return soServer{}, core.Errorf("so", core.CodeInvalidArgument, "got %d arguments, want path, symbol, sha256 and concurrency", len(args))
	}
	n, err := strconv.Atoi(args[3])
	if err != nil || n < 1 {
		return soServer{}, core.Errorf("so", core.CodeInvalidArgument, "concurrency %q is not a positive number", args[3])
	}
	return soServer{path: args[0], symbol: args[1], sha256: args[2], concurrency: n}, nil
}

// serve answers the host on conn until it says shutdown or goes, then shuts the
// library down. A library that cannot be started is reported to the host.
func (s soServer) serve(ctx context.Context, conn net.Conn) error {
	cabi.PlainFaults()
	h := &soHandler{server: s}
	if err := framed.Serve(ctx, conn, h); err != nil {
		return err
	}
	if h.plugin == nil {
		return nil
	}
	return h.plugin.Stop(ctx)
}

// soHandler starts the library when the host says hello. A call that hangs is not
// answered: the host kills this process, which is what it is there for.
type soHandler struct {
	server soServer
	plugin *cabi.Plugin // set by Start, before any call
}

// Start implements [framed.Handler].
func (h *soHandler) Start(ctx context.Context, config map[string]any) error {
	plugin, err := openSO(ctx, soSource{
		options: cabi.Options{
			Path: h.server.path, Symbol: h.server.symbol, SHA256: h.server.sha256, CopyDir: os.TempDir(),
		},
		concurrency: h.server.concurrency,
		config:      config,
	})
	h.plugin = plugin
	return err
}

// Call implements [framed.Handler].
func (h *soHandler) Call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	return h.plugin.CallHere(ctx, method, payload)
}

// CallBatch implements [framed.Handler].
func (h *soHandler) CallBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	return h.plugin.CallBatchHere(ctx, method, payloads)
}
