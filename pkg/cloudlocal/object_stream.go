package cloudlocal

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	defaultBlock = 256 << 10 // bytes read, hashed and written at once
	streamBlocks = 8         // blocks of one stream: 2 MiB
	startEvery   = 8 << 20   // bytes written before the disk is asked to begin
)

// block is a piece of a stream that is hashed and written at the same time.
type block struct {
	buf   []byte
	n     int
	users atomic.Int32 // goroutines that still read buf
}

// blockPool keeps blocks for the next call.
type blockPool struct {
	size int // bytes of each
	p    sync.Pool
}

func (bp *blockPool) get() *block {
	if b, ok := bp.p.Get().(*block); ok {
		return b
	}
	return &block{buf: make([]byte, bp.size)}
}

func (bp *blockPool) put(b *block) { bp.p.Put(b) }

// receive stores a stream of unknown length. The caller's goroutine reads, one
// writes and one hashes:
//
//	r -> read -> block -+-> write -> temporary
//	      ^             +-> hash  -> id
//	      +--- free <--- when both are done with it
func (o *Objects) receive(ctx context.Context, op string, r io.Reader, opts core.PutOptions, c *claim) (*pending, error) {
	tmp := o.tmp.take()
	defer o.tmp.give(tmp)
	name, f, err := tmp.create()
	if err != nil {
		return nil, fsError(op, err)
	}
	p := &pending{blob: temp{name: name, file: f}}
	defer func() { o.discard([]*pending{p}) }()
	id, n, err := o.pump(ctx, op, r, f, c)
	if err != nil {
		return nil, err
	}
	if err := expect(op, opts, id); err != nil {
		return nil, err
	}
	p.id, p.blob.want = id, n
	p.meta = objectMeta{size: n, contentType: opts.ContentType, createdMS: time.Now().UnixMilli()}
	if err := o.flights.begin(ctx, id); err != nil {
		return nil, core.Wrap(op, core.CodeCanceled, err)
	}
	defer o.flights.end(id)
	if _, err := o.stands(op, p); err != nil {
		return nil, err
	}
	if err := p.writeMeta(tmp); err != nil {
		return nil, fsError(op, err)
	}
	if err := o.publish(ctx, op, []*pending{p}); err != nil {
		return nil, err
	}
	return p, nil
}

// pump copies r to f and returns the id and the length of what it copied.
func (o *Objects) pump(ctx context.Context, op string, r io.Reader, f writeFile, c *claim) (core.ContentID, int64, error) {
	p := &pipeline{free: make(chan *block, streamBlocks), write: make(chan *block, streamBlocks),
		hash: make(chan *block, streamBlocks), hasher: core.NewContentHasher()}
	for range streamBlocks {
		p.free <- o.blocks.get()
	}
	n, err := p.run(ctx, op, r, f, c)
	for range streamBlocks {
		o.blocks.put(<-p.free)
	}
	if werr := p.failure.Load(); werr != nil && err == nil {
		err = fsError(op, *werr)
	}
	if err != nil {
		return core.ContentID{}, 0, err
	}
	return p.hasher.ID(), n, nil
}

type pipeline struct {
	free, write, hash chan *block
	hasher            *core.ContentHasher // of the hashing goroutine until both are done
	both              sync.WaitGroup
	failure           atomic.Pointer[error] // of the writing goroutine
}

// run returns when all that was read is written and hashed, also when r panics.
func (p *pipeline) run(ctx context.Context, op string, r io.Reader, f writeFile, c *claim) (int64, error) {
	p.start(f)
	defer func() {
		close(p.write)
		close(p.hash)
		p.both.Wait()
	}()
	return p.read(ctx, op, r, c)
}

func (p *pipeline) start(f writeFile) {
	p.both.Go(func() {
		var done, started int64
		for b := range p.write {
			if p.failure.Load() == nil {
				if _, err := f.Write(b.buf[:b.n]); err != nil {
					p.failure.Store(&err)
				}
			}
			done += int64(b.n)
			if done-started >= startEvery {
				f.StartSync(started, done-started)
				started = done
			}
			p.release(b)
		}
	})
	p.both.Go(func() {
		for b := range p.hash {
			p.hasher.Write(b.buf[:b.n])
			p.release(b)
		}
	})
}

func (p *pipeline) release(b *block) {
	if b.users.Add(-1) == 0 {
		p.free <- b
	}
}

// read feeds the pipeline until r ends or fails or a block cannot be written. All
// blocks are in the pipeline or free when it returns.
func (p *pipeline) read(ctx context.Context, op string, r io.Reader, c *claim) (total int64, err error) {
	for {
		b := <-p.free
		n, err := fill(ctx, r, b.buf)
		if err != nil && !errors.Is(err, io.EOF) {
			p.free <- b
			return total, core.WithOp(op, err)
		}
		total += int64(n)
		if gerr := c.grow(ctx, total); gerr != nil || p.failure.Load() != nil {
			p.free <- b
			return total, gerr
		}
		b.n = n
		b.users.Store(2)
		p.write <- b
		p.hash <- b
		if err != nil {
			return total, nil
		}
	}
}
