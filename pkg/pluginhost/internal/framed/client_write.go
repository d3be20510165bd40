package framed

import (
	"runtime"
	"syscall"
)

// flushLocked sends what lies in out, unless somebody else is at it. It is
// called, and returns, with mu held; in between it lets mu go. It does not block
// on a full socket: a goroutine takes over then. With yield, other goroutines
// get a chance to add their frames to the same write first.
func (c *Client) flushLocked(yield bool) {
	if c.writing {
		return
	}
	c.writing = true
	if yield {
		c.mu.Unlock()
		runtime.Gosched()
		c.mu.Lock()
	}
	for len(c.out) > 0 && c.err == nil {
		c.buf, c.out, c.spare = c.out, c.spare[:0], nil
		c.mu.Unlock()
		err := c.try()
		c.mu.Lock()
		if err != nil {
			c.failLocked(err)
			break
		}
		if len(c.buf) > 0 {
			go c.flushSlowly(c.buf)
			return
		}
		c.recycleLocked()
	}
	c.writing = false
}

// keepBuffer bounds what an idle client holds on to.
const keepBuffer = 256 << 10

func (c *Client) recycleLocked() {
	if cap(c.buf) <= keepBuffer {
		c.spare = c.buf[:0]
	}
	c.buf = nil
}

// try writes as much of buf as the socket takes now.
func (c *Client) try() error {
	whole := c.buf
	for len(c.buf) > 0 {
		before := len(c.buf)
		if err := c.raw.Write(c.tryFunc); err != nil {
			return err
		}
		if c.tryErr != nil {
			return c.tryErr
		}
		if len(c.buf) == before {
			return nil
		}
	}
	c.buf = whole[:0]
	return nil
}

func (c *Client) tryOnce(fd uintptr) bool {
	n, err := syscall.Write(int(fd), c.buf)
	switch {
	case err == nil:
		c.tryErr = nil
		c.buf = c.buf[n:]
	case err == syscall.EAGAIN || err == syscall.EINTR:
		c.tryErr = nil
	default:
		c.tryErr = err
	}
	return true
}

// flushSlowly writes the rest when the socket was full, then whatever came since.
// It owns the writing side.
func (c *Client) flushSlowly(rest []byte) {
	_, err := c.conn.Write(rest)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.buf = nil
	c.writing = false
	if err != nil {
		c.failLocked(err)
		return
	}
	c.flushLocked(false)
}
