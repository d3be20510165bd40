package framed

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/parts"
)

// DefaultGrace is how long an abandoned call may stay unanswered.
const DefaultGrace = time.Second

// Client is the host's end of one stream: many calls at once, each with an id.
//
// A call whose context ends returns at once; the plugin is told by a cancel
// frame and must answer within the grace, or else the client fails as a whole
// with [ErrStuck], and its owner kills the process.
type Client struct {
	conn  *net.UnixConn
	raw   syscall.RawConn
	grace time.Duration
	done  chan struct{} // closed when failed

	waiters sync.Pool // of *waiter whose channel is empty

	// mu guards what follows. Nothing that can block happens under it.
	mu      sync.Mutex
	pending map[uint64]*waiter
	nextID  uint64
	out     []byte // frames not yet taken by the writer
	spare   []byte // a buffer to swap with out
	writing bool   // somebody owns the writing side, with buf
	err     error  // why no further call is possible

	// Owned by whoever has set writing.
	buf     []byte
	tryErr  error
	tryFunc func(fd uintptr) bool
}

// ErrStuck is the cause of a client's failure after a call was neither answered
// nor cancelled in time.
var ErrStuck = errors.New("an abandoned call was not answered in time")

// waiter is one call in flight.
type waiter struct {
	ch        chan Frame // has room for the answer
	abandoned *time.Timer
}

// NewClient takes over conn and the reader that the handshake used. A grace of
// zero means [DefaultGrace].
func NewClient(conn *net.UnixConn, r *Reader, grace time.Duration) (*Client, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, core.Wrap("", core.CodeInternal, err)
	}
	if grace <= 0 {
		grace = DefaultGrace
	}
	c := &Client{conn: conn, raw: raw, grace: grace, done: make(chan struct{}), pending: make(map[uint64]*waiter)}
	c.tryFunc = c.tryOnce
	go c.read(r)
	return c, nil
}

// Done is closed when the client can carry no further call.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err returns why, after Done.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the stream; calls in flight fail.
func (c *Client) Close() error {
	c.fail(net.ErrClosed)
	return nil
}

// Shutdown sends a shutdown frame, to be followed by the plugin's end of stream.
func (c *Client) Shutdown() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.out = Append(c.out, TypeShutdown, 0, nil)
	c.flushLocked(false)
}

// Call runs one method and returns its result. Errors are the plugin's own, the
// context's, or [core.CodePluginCrashed] when the stream failed.
func (c *Client) Call(ctx context.Context, method string, payload []byte) ([]byte, error) {
	ms, err := millisLeft(ctx)
	if err != nil {
		return nil, err
	}
	f, err := c.roundTrip(ctx, func(dst []byte, id uint64) []byte {
		return AppendCall(dst, id, ms, method, payload)
	})
	if err != nil {
		return nil, err
	}
	if f.Type == TypeError {
		return nil, ParseError(f.Body)
	}
	if len(f.Body) > core.MaxCallPayload {
		return nil, core.Errorf("", core.CodeTooLarge, "the result has %d bytes, at most %d are allowed", len(f.Body), core.MaxCallPayload)
	}
	return f.Body, nil
}

// CallBatch runs one method for many payloads, in as many frames as their sizes
// ask for. The error is set only when no payload was answered.
func (c *Client) CallBatch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	length := func(rest [][]byte) int { return max(BatchLen(method, rest), 1) }
	return parts.Answer(payloads, length, func(part [][]byte) ([]core.CallResult, error) {
		return c.batch(ctx, method, part)
	})
}

func (c *Client) batch(ctx context.Context, method string, payloads [][]byte) ([]core.CallResult, error) {
	ms, err := millisLeft(ctx)
	if err != nil {
		return nil, err
	}
	f, err := c.roundTrip(ctx, func(dst []byte, id uint64) []byte {
		return AppendBatch(dst, id, ms, method, payloads)
	})
	if err != nil {
		return nil, err
	}
	if f.Type == TypeError {
		return nil, ParseError(f.Body)
	}
	results, err := ParseBatchResult(f.Body, len(payloads))
	if err != nil {
		c.fail(err)
		return nil, core.Wrap("", core.CodePluginContract, err)
	}
	return results, nil
}

// millisLeft returns the deadline as the wire carries it: 0 for none, at least 1.
func millisLeft(ctx context.Context) (uint32, error) {
	if err := ctx.Err(); err != nil {
		return 0, core.Wrap("", core.CodeDeadlineExceeded, err)
	}
	deadline, ok := ctx.Deadline()
	if !ok {
		return 0, nil
	}
	return uint32(min(max(time.Until(deadline).Milliseconds(), 1), 1<<32-1)), nil
}

func (c *Client) roundTrip(ctx context.Context, frame func(dst []byte, id uint64) []byte) (Frame, error) {
	w := c.waiter()
	c.mu.Lock()
	if c.err != nil {
		err := c.err
		c.mu.Unlock()
		c.waiters.Put(w)
		return Frame{}, streamErr(err)
	}
	c.nextID++
	id := c.nextID
	c.pending[id] = w
	c.out = frame(c.out, id)
	c.flushLocked(len(c.pending) > 1)
	c.mu.Unlock()

	select {
	case f, ok := <-w.ch:
		return c.answer(w, f, ok)
	case <-ctx.Done():
	}
	if !c.abandon(id, w) {
		f, ok := <-w.ch
		return c.answer(w, f, ok)
	}
	return Frame{}, core.Wrap("", core.CodeDeadlineExceeded, ctx.Err())
}

func (c *Client) waiter() *waiter {
	if w, ok := c.waiters.Get().(*waiter); ok {
		return w
	}
	return &waiter{ch: make(chan Frame, 1)}
}

func (c *Client) answer(w *waiter, f Frame, ok bool) (Frame, error) {
	if !ok { // the stream failed, which closed the channel: w is not used again
		return Frame{}, streamErr(c.Err())
	}
	c.waiters.Put(w)
	return f, nil
}

func streamErr(err error) error {
	if errors.Is(err, ErrFrame) {
		return core.Errorf("", core.CodePluginContract, "the stream broke: %w", err)
	}
	return core.Errorf("", core.CodePluginCrashed, "the stream ended: %w", err)
}

// abandon tells the plugin that a call is not wanted any more. It reports false
// when the answer has come already.
func (c *Client) abandon(id uint64, w *waiter) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending[id] != w {
		return false
	}
	w.abandoned = time.AfterFunc(c.grace, func() { c.fail(ErrStuck) })
	c.out = Append(c.out, TypeCancel, id, nil)
	c.flushLocked(false)
	return true
}

// read delivers answers until the stream ends.
func (c *Client) read(r *Reader) {
	for {
		f, err := r.Next()
		if err == nil {
			err = c.deliver(f)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// deliver hands a frame to its waiter.
func (c *Client) deliver(f Frame) error {
	if f.Type != TypeResult && f.Type != TypeError {
		return fmt.Errorf("%w: the plugin sent %v", ErrFrame, f.Type)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	w, ok := c.pending[f.ID]
	if !ok {
		return fmt.Errorf("%w: %v for id %d, which waits for nothing", ErrFrame, f.Type, f.ID)
	}
	delete(c.pending, f.ID)
	if w.abandoned != nil {
		w.abandoned.Stop()
		w.abandoned = nil
		c.waiters.Put(w)
		return nil
	}
	w.ch <- f
	return nil
}

func (c *Client) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failLocked(err)
}

func (c *Client) failLocked(err error) {
	if c.err != nil {
		return
	}
	c.err = err
	for id, w := range c.pending {
		delete(c.pending, id)
		if w.abandoned != nil {
			w.abandoned.Stop()
			continue
		}
		close(w.ch)
	}
	// Closing wakes the reader and a slow writer; its own error says nothing new.
	_ = c.conn.Close()
	close(c.done)
}
