package pluginhost

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/framed"
)

// jsonInstance is a sidecar that speaks the Rust original's wire: it listens on
// the socket named by its last argument and answers one JSON object to another,
// one call at a time. There are no ids on this wire, so a call that is given up
// costs the process.
type jsonInstance struct {
	p    *process
	conn net.Conn
	turn chan struct{} // taken by the call that uses conn
	gone chan struct{}
	halt stopOnce

	mu    sync.Mutex // guards cause
	cause error      // why the connection was given up
}

// jsonSocket is the name of the socket in the run directory.
const jsonSocket = "s.sock"

// startFramedJSON starts a sidecar of protocol framed-json-uds.
func startFramedJSON(ctx context.Context, m core.Manifest, env hostEnv) (instance, error) {
	cmd, err := resolveCommand(ctx, m, env)
	if err != nil {
		return nil, err
	}
	dir, err := newRunDir(env.runRoot)
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir.socket, jsonSocket)
	cmd.argv = append(append([]string(nil), cmd.argv...), socket)
	p, err := spawn(ctx, m, env, spawnOptions{cmd: cmd, dir: dir})
	if err != nil {
		return nil, err
	}
	conn, err := p.dial(ctx, socket)
	if err != nil {
		return nil, p.startError(err)
	}
	i := &jsonInstance{p: p, conn: conn, turn: make(chan struct{}, 1), gone: make(chan struct{})}
	config, err := configJSON(m.Config)
	if err == nil {
		// The original's plugins answer Init as they like, an error included.
		if _, err = i.exchange(ctx, "Init", string(config)); core.IsCode(err, core.CodePluginError) {
			err = nil
		}
	}
	if err != nil {
		_ = conn.Close() // the process ends now
		return nil, p.startError(err)
	}
	go i.watch()
	return i, nil
}

// dialEvery is the pause between two looks for a sidecar's socket.
const dialEvery = 10 * time.Millisecond

// dial connects to a sidecar's socket once it is there.
func (p *process) dial(ctx context.Context, socket string) (net.Conn, error) {
	tick := time.NewTicker(dialEvery)
	defer tick.Stop()
	for {
		st, err := os.Lstat(socket)
		switch {
		case err == nil && st.Mode().Type() != os.ModeSocket:
			return nil, core.Errorf("", core.CodePluginContract, "what the plugin made at the path of its last argument is no socket")
		case err == nil:
			if conn, err := net.Dial("unix", socket); err == nil {
				return conn, nil
			} else if !errors.Is(err, syscall.ECONNREFUSED) {
				return nil, core.Errorf("", core.CodePluginContract, "connect to the plugin's socket: %w", err)
			}
		}
		select {
		case <-tick.C:
		case <-p.exited:
			return nil, core.Errorf("", core.CodePluginCrashed, "it ended before it listened on its socket")
		case <-ctx.Done():
			return nil, core.Errorf("", core.CodeDeadlineExceeded, "the plugin does not listen on the path of its last argument: %w", ctx.Err())
		}
	}
}

// watch ends the connection with the process.
func (i *jsonInstance) watch() {
	<-i.p.exited
	i.fail(nil)
	i.p.finish(context.Background(), 0)
}

// fail gives the connection up; the first reason stands.
func (i *jsonInstance) fail(cause error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	select {
	case <-i.gone:
		return
	default:
	}
	i.cause = cause
	close(i.gone)
	_ = i.conn.Close() // nothing more can be read from it in any case
	i.p.kill()
}

func (i *jsonInstance) call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	if !utf8.Valid(payload) || !utf8.ValidString(method) {
		return nil, core.Errorf("", core.CodePluginContract, "protocol framed-json-uds carries text only, and the payload is not UTF-8")
	}
	select {
	case i.turn <- struct{}{}:
		defer func() { <-i.turn }()
	case <-ctx.Done():
		return nil, core.Wrap("", core.CodeDeadlineExceeded, ctx.Err())
	case <-i.gone:
		return nil, i.exit()
	}
	out, err := i.exchange(ctx, method, string(payload))
	switch {
	case err == nil:
		return out, nil
	case core.IsCode(err, core.CodePluginError):
		return nil, err
	}
	i.fail(err)
	if ctx.Err() != nil {
		return nil, core.Wrap("", core.CodeDeadlineExceeded, ctx.Err())
	}
	if core.IsCode(err, core.CodePluginCrashed) {
		return nil, i.exit()
	}
	return nil, err
}

// exchange sends one request and reads its reply. After any error but the plugin's
// own the connection is useless.
func (i *jsonInstance) exchange(ctx context.Context, method, payload string) ([]byte, error) {
	stop := context.AfterFunc(ctx, func() {
		_ = i.conn.SetDeadline(time.Unix(1, 0)) // wakes read and write; a closed connection is awake
	})
	defer stop()
	frame, err := appendJSONRequest(nil, method, payload)
	if err != nil {
		return nil, err
	}
	if _, err := i.conn.Write(frame); err != nil {
		return nil, wireError(ctx, err)
	}
	reply, err := readJSONFrame(i.conn)
	if err != nil {
		return nil, wireError(ctx, err)
	}
	return parseJSONReply(reply)
}

func wireError(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return core.Wrap("", core.CodeDeadlineExceeded, ctx.Err())
	case errors.Is(err, framed.ErrFrame):
		return core.Wrap("", core.CodePluginContract, err)
	}
	return core.Errorf("", core.CodePluginCrashed, "the connection ended: %w", err)
}

// appendJSONRequest appends a request with its length.
func appendJSONRequest(dst []byte, method, payload string) ([]byte, error) {
	body, err := json.Marshal(struct {
		Method  string `json:"method"`
		Payload string `json:"payload"`
	}{method, payload})
	if err != nil {
		return nil, core.Wrap("", core.CodeInternal, err)
	}
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(body))), body...), nil
}

// readJSONFrame reads one length and its body. Memory grows with what arrives.
func readJSONFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > framed.MaxFrame {
		return nil, fmt.Errorf("%w: length %d is above %d", framed.ErrFrame, n, framed.MaxFrame)
	}
	var b strings.Builder
	if _, err := io.CopyN(&b, r, int64(n)); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return []byte(b.String()), nil
}

// parseJSONReply returns a reply object as it came, or the error in it.
func parseJSONReply(reply []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(reply, &fields); err != nil || fields == nil {
		return nil, core.Errorf("", core.CodePluginContract, "the reply is no JSON object: %q", cutLine(string(reply)))
	}
	raw, ok := fields["error"]
	if !ok || string(raw) == "null" {
		return reply, nil
	}
	text := string(raw)
	var s string
	if json.Unmarshal(raw, &s) == nil {
		text = s
	}
	return nil, core.Errorf("", core.CodePluginError, "%s", text)
}

func (i *jsonInstance) callBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	out := make([]core.CallResult, len(payloads))
	for k, p := range payloads {
		out[k].Result, out[k].Err = i.call(ctx, method, p)
	}
	return out, nil
}

func (i *jsonInstance) containment() core.Containment { return i.p.contain }
func (i *jsonInstance) pid() int                      { return i.p.childID }
func (i *jsonInstance) done() <-chan struct{}         { return i.gone }

func (i *jsonInstance) exit() error {
	i.mu.Lock()
	cause := i.cause
	i.mu.Unlock()
	if core.IsCode(cause, core.CodePluginCrashed) {
		cause = nil // that it ended is what the rest says
	}
	return i.p.crashError(cause)
}

func (i *jsonInstance) stop(ctx context.Context) error {
	return i.halt.do(func() error {
		select {
		case i.turn <- struct{}{}:
			bounded, cancel := context.WithTimeout(ctx, stopPatience)
			// The reply to Shutdown, if any, changes nothing.
			_, _ = i.exchange(bounded, "Shutdown", "")
			cancel()
			<-i.turn
		default: // a call that was cut off holds the connection
		}
		i.p.finish(ctx, stopPatience)
		i.fail(nil)
		return nil
	})
}
