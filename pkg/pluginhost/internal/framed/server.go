package framed

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Handler is a plugin as [Serve] calls it.
type Handler interface {
	// Start runs init with the host's config, then preflight.
	Start(ctx context.Context, config map[string]any) error
	// Call runs one method; ctx ends at the host's deadline or cancel.
	Call(ctx context.Context, method string, payload []byte) ([]byte, error)
	// CallBatch runs one method for many payloads.
	CallBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error)
}

// server is the plugin's end of one stream.
type server struct {
	conn    net.Conn
	h       Handler
	calls   sync.WaitGroup
	writeMu sync.Mutex // held over one whole write, so that frames do not mix

	mu      sync.Mutex // guards running
	running map[uint64]context.CancelFunc
}

// Serve answers on conn until the host says shutdown or goes, then waits for the
// calls that run. It returns nil in both cases, and an error when Start failed or
// the host broke the format.
func Serve(ctx context.Context, conn net.Conn, h Handler) error {
	s := &server{conn: conn, h: h, running: make(map[uint64]context.CancelFunc)}
	ctx, cancel := context.WithCancel(ctx)
	defer s.calls.Wait()
	defer cancel()
	r := NewReader(conn)
	if err := s.hello(ctx, r); err != nil {
		return err
	}
	for {
		f, err := r.Next()
		if errors.Is(err, io.EOF) || err == nil && f.Type == TypeShutdown {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.handle(ctx, f); err != nil {
			return err
		}
	}
}

func (s *server) hello(ctx context.Context, r *Reader) error {
	f, err := r.Next()
	if err != nil {
		return err
	}
	hello, err := ParseHello(f.Body)
	if err == nil {
		err = s.h.Start(ctx, hello.Config)
	}
	if err != nil {
		return errors.Join(err, s.write(Append(nil, TypeError, 0, MarshalError(err))))
	}
	return s.write(Append(nil, TypeHello, 0, []byte(`{"magic":"rollout-plugin","version":1}`)))
}

func (s *server) handle(ctx context.Context, f Frame) error {
	switch f.Type {
	case TypeCall:
		c, err := ParseCall(f.Body)
		if err != nil {
			return err
		}
		s.start(ctx, f.ID, c.Millis, func(ctx context.Context) []byte {
			out, err := s.h.Call(ctx, c.Method, c.Payload)
			if err == nil && len(out) > core.MaxCallPayload {
				err = core.Errorf("", core.CodeTooLarge, "the result has %d bytes, at most %d are allowed", len(out), core.MaxCallPayload)
			}
			if err != nil {
				return Append(nil, TypeError, f.ID, MarshalError(err))
			}
			return Append(nil, TypeResult, f.ID, out)
		})
	case TypeBatch:
		b, err := ParseBatch(f.Body)
		if err != nil {
			return err
		}
		s.start(ctx, f.ID, b.Millis, func(ctx context.Context) []byte {
			out, err := s.h.CallBatch(ctx, b.Method, b.Payloads)
			if err != nil {
				return Append(nil, TypeError, f.ID, MarshalError(err))
			}
			return AppendBatchResult(nil, f.ID, out)
		})
	case TypeCancel:
		s.mu.Lock()
		defer s.mu.Unlock()
		if cancel, ok := s.running[f.ID]; ok {
			cancel()
		}
	default:
		return core.Errorf("", core.CodePluginContract, "the host sent %v: %w", f.Type, ErrFrame)
	}
	return nil
}

// start runs one call on a goroutine of its own and writes the frame it returns.
func (s *server) start(ctx context.Context, id uint64, ms uint32, run func(context.Context) []byte) {
	var cancel context.CancelFunc
	if ms > 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(ms)*time.Millisecond)
	} else {
		ctx, cancel = context.WithCancel(ctx)
	}
	s.mu.Lock()
	s.running[id] = cancel
	s.mu.Unlock()
	s.calls.Add(1)
	go func() {
		defer s.calls.Done()
		frame := run(ctx)
		s.mu.Lock()
		delete(s.running, id)
		s.mu.Unlock()
		cancel()
		// A failed write means that the host is gone, which the reader sees.
		_ = s.write(frame)
	}()
}

func (s *server) write(frame []byte) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	_, err := s.conn.Write(frame)
	return err
}
