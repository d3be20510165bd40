package pluginhost

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// The handshake that pkg/pluginsdk and the Python SDK answer.
const (
	grpcProtocolVersion = 1
	grpcCookieKey       = "ROLLOUT_PLUGIN_COOKIE"
	grpcCookieValue     = "rollout.plugin.v1"
	grpcPluginName      = "rollout"
)

// grpcRunner lets go-plugin run a sidecar under our launcher. It reads the
// handshake itself first, so that whatever a foreign program prints there becomes
// an error that says so.
type grpcRunner struct {
	ctx context.Context // of the start
	m   core.Manifest
	env hostEnv
	cmd command
	dir *runDir

	plugEnv []string // go-plugin's variables
	sockets string   // where the plugin must put its socket
	p       *process // set by Start
	err     error    // what was wrong with the handshake
	stdout  *io.PipeReader
	stderr  *io.PipeReader // carries nothing; stderr is read by the process
}

var _ runner.Runner = (*grpcRunner)(nil)

func newGRPCRunner(ctx context.Context, m core.Manifest, env hostEnv, cmd command) (*grpcRunner, error) {
	dir, err := newRunDir(env.runRoot)
	if err != nil {
		return nil, err
	}
	return &grpcRunner{ctx: ctx, m: m, env: env, cmd: cmd, dir: dir}, nil
}

// newClient returns go-plugin's client on this runner.
func (r *grpcRunner) newClient() *goplugin.Client {
	return goplugin.NewClient(&goplugin.ClientConfig{
		HandshakeConfig:  goplugin.HandshakeConfig{ProtocolVersion: grpcProtocolVersion, MagicCookieKey: grpcCookieKey, MagicCookieValue: grpcCookieValue},
		Plugins:          goplugin.PluginSet{grpcPluginName: &goplugin.NetRPCUnsupportedPlugin{}},
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC},
		SkipHostEnv:      true,
		StartTimeout:     maxTimeout, // our own context ends a start
		Logger:           hclog.New(&hclog.LoggerOptions{Output: io.Discard, Level: hclog.Off}),
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: r.dir.socket},
		GRPCDialOptions: []grpc.DialOption{
			grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxGRPCMessage), grpc.MaxCallSendMsgSize(maxGRPCMessage)),
		},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, sockets string) (runner.Runner, error) {
			r.plugEnv, r.sockets = cmd.Env, sockets
			return r, nil
		},
	})
}

// Start starts the process and reads its handshake.
func (r *grpcRunner) Start(context.Context) error {
	p, err := spawn(r.ctx, r.m, r.env, spawnOptions{cmd: r.cmd, env: r.plugEnv, keepStdout: true, dir: r.dir})
	if err != nil {
		r.err = err
		return err
	}
	r.p = p
	br := bufio.NewReaderSize(p.stdout, maxLogLine)
	line, err := r.handshake(br)
	if err != nil {
		r.err = err
		p.kill()
		go drain(br, p)
		return err
	}
	var out, errOut *io.PipeWriter
	r.stdout, out = io.Pipe()
	r.stderr, errOut = io.Pipe()
	go func() {
		// go-plugin reads as long as the process lives; a closed reader ends it.
		_, _ = io.WriteString(out, line+"\n")
		copyLines(br, nil, r.env.emit)
		_ = p.stdout.Close() // read to its end
		<-p.ended
		_ = out.Close()    // a pipe in memory cannot fail to close
		_ = errOut.Close() // the same
	}()
	return nil
}

// drain reads what a plugin that failed its handshake still prints.
func drain(r io.Reader, p *process) {
	_, _ = io.Copy(io.Discard, r) // whatever ends it
	_ = p.stdout.Close()          // read to its end
}

// handshake reads the first line of stdout and checks it.
func (r *grpcRunner) handshake(br *bufio.Reader) (string, error) {
	type read struct {
		line string
		err  error
	}
	ch := make(chan read, 1)
	go func() {
		b, err := br.ReadSlice('\n')
		ch <- read{strings.TrimSpace(strings.ToValidUTF8(string(b), "\uFFFD")), err}
	}()
	var got read
	select {
	case got = <-ch:
	case <-r.ctx.Done():
		r.p.kill() // which ends the read
		<-ch
		return "", core.Wrap("", core.CodeDeadlineExceeded, r.ctx.Err())
	}
	switch {
	case errors.Is(got.err, io.EOF) && got.line == "":
		return "", core.Errorf("", core.CodePluginCrashed, "stdout ended before the handshake")
	case got.err != nil && !errors.Is(got.err, io.EOF) && !errors.Is(got.err, bufio.ErrBufferFull):
		return "", core.Errorf("", core.CodePluginCrashed, "read handshake: %w", got.err)
	}
	if msg := checkHandshake(got.line, r.sockets); msg != "" {
		return "", core.Errorf("", core.CodePluginContract, "the first line of stdout must be go-plugin's handshake, and it %s; it was %q", msg, cutLine(got.line))
	}
	return got.line, nil
}

func cutLine(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}

// maxSocketPath is the longest address of a Unix socket in bytes.
const maxSocketPath = 107

// checkHandshake returns what is wrong with a handshake line, or "". The socket
// must be one, lie in the directory made for it and belong to this user.
func checkHandshake(line, sockets string) string {
	parts := strings.Split(line, "|")
	if len(parts) < 5 {
		return `is not of the form "1|1|unix|PATH|grpc"; print to stderr, or nothing, before it`
	}
	if n, err := strconv.Atoi(parts[0]); err != nil || n != goplugin.CoreProtocolVersion {
		return fmt.Sprintf("has core protocol version %q, not %d", parts[0], goplugin.CoreProtocolVersion)
	}
	if n, err := strconv.Atoi(parts[1]); err != nil || n != grpcProtocolVersion {
		return fmt.Sprintf("has protocol version %q, not %d", parts[1], grpcProtocolVersion)
	}
	if parts[2] != "unix" || parts[4] != "grpc" {
		return fmt.Sprintf("offers %s over %s, not grpc over unix", parts[4], parts[2])
	}
	path := parts[3]
	if len(path) > maxSocketPath {
		return fmt.Sprintf("names a socket of %d bytes, at most %d are possible", len(path), maxSocketPath)
	}
	if filepath.Clean(path) != path || filepath.Dir(path) != filepath.Clean(sockets) {
		return "names a socket outside PLUGIN_UNIX_SOCKET_DIR"
	}
	st, err := os.Lstat(path)
	if err != nil {
		return "names a socket that is not there"
	}
	if st.Mode().Type() != os.ModeSocket {
		return "names something that is no socket"
	}
	if sys, ok := st.Sys().(*syscall.Stat_t); !ok || int(sys.Uid) != os.Geteuid() {
		return "names a socket of another user"
	}
	return ""
}

// Diagnose implements [runner.Runner].
func (r *grpcRunner) Diagnose(context.Context) string { return "" }

// Stdout implements [runner.Runner].
func (r *grpcRunner) Stdout() io.ReadCloser { return r.stdout }

// Stderr implements [runner.Runner].
func (r *grpcRunner) Stderr() io.ReadCloser { return r.stderr }

// Name implements [runner.Runner].
func (r *grpcRunner) Name() string { return r.m.ID() }

// Wait implements [runner.AttachedRunner].
func (r *grpcRunner) Wait(context.Context) error {
	<-r.p.ended
	return nil
}

// Kill implements [runner.AttachedRunner].
func (r *grpcRunner) Kill(context.Context) error {
	if r.p != nil {
		r.p.kill()
		<-r.p.ended
	}
	return nil
}

// ID implements [runner.AttachedRunner].
func (r *grpcRunner) ID() string {
	if r.p == nil {
		return ""
	}
	return strconv.Itoa(r.p.childID)
}

// PluginToHost implements [runner.AddrTranslator].
func (r *grpcRunner) PluginToHost(network, addr string) (string, string, error) {
	return network, addr, nil
}

// HostToPlugin implements [runner.AddrTranslator].
func (r *grpcRunner) HostToPlugin(network, addr string) (string, string, error) {
	return network, addr, nil
}
