package framed

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Handshake sends the host's hello and waits for the plugin's. An error frame
// instead is returned as [ParseError] reads it. It belongs before [NewClient].
func Handshake(ctx context.Context, conn *net.UnixConn, config map[string]any) (*Reader, error) {
	hello, err := AppendHello(nil, config)
	if err != nil {
		return nil, core.Wrap("", core.CodeConfigInvalid, err)
	}
	stop := context.AfterFunc(ctx, func() {
		// Deadlines in the past wake the blocked read and write; a closed
		// connection has woken them already.
		_ = conn.SetDeadline(time.Unix(1, 0))
	})
	defer stop()
	if _, err := conn.Write(hello); err != nil {
		return nil, handshakeErr(ctx, err)
	}
	r := NewReader(conn)
	f, err := r.Next()
	if err != nil {
		return nil, handshakeErr(ctx, err)
	}
	switch f.Type {
	case TypeHello:
		if _, err := ParseHello(f.Body); err != nil {
			return nil, core.Wrap("", core.CodePluginContract, err)
		}
	case TypeError:
		return nil, ParseError(f.Body)
	default:
		return nil, core.Errorf("", core.CodePluginContract, "the plugin's first frame is %v, not hello", f.Type)
	}
	if !stop() {
		return nil, core.Wrap("", core.CodeDeadlineExceeded, context.Cause(ctx))
	}
	return r, nil
}

func handshakeErr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return core.Wrap("", core.CodeDeadlineExceeded, context.Cause(ctx))
	}
	if errors.Is(err, ErrFrame) {
		return core.Wrap("", core.CodePluginContract, err)
	}
	return core.Errorf("", core.CodePluginCrashed, "stream closed before hello: %w", err)
}
