package cloudlocal

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// groupSize is the number of objects whose syncs PutMany shares. Each has two
// open files until then.
const groupSize = 64

// memBlob is an object of which all bytes are at hand.
type memBlob struct {
	id          core.ContentID
	data        []byte
	contentType string
}

// Put implements [core.ObjectStore]. Up to 256 KiB are gathered first, so that
// bytes which are stored already are not written again; more are written to a
// temporary file and hashed beside the writing.
func (o *Objects) Put(ctx context.Context, r io.Reader, opts core.PutOptions) (core.ObjectInfo, error) {
	const op = "objects: put"
	if err := checkContentType(opts.ContentType); err != nil {
		return core.ObjectInfo{}, core.Wrap(op, core.CodeInvalidArgument, err)
	}
	if err := o.enterToWrite(ctx, op); err != nil {
		return core.ObjectInfo{}, err
	}
	defer o.calls.Done()
	c := &claim{r: &o.room}
	stored := int64(0)
	defer func() { c.end(stored) }()
	if err := c.grow(ctx, max(opts.Size, 0)); err != nil {
		return core.ObjectInfo{}, err
	}
	head := o.blocks.get()
	defer o.blocks.put(head)
	n, err := fill(ctx, r, head.buf)
	if err == nil {
		p, err := o.receive(ctx, op, io.MultiReader(bytes.NewReader(head.buf[:n]), r), opts, c)
		if err != nil {
			return core.ObjectInfo{}, err
		}
		stored = storedBytes(p)
		return p.info, nil
	}
	if !errors.Is(err, io.EOF) {
		return core.ObjectInfo{}, core.WithOp(op, err)
	}
	b := memBlob{core.SumContent(head.buf[:n]), head.buf[:n], opts.ContentType}
	if err := expect(op, opts, b.id); err != nil {
		return core.ObjectInfo{}, err
	}
	ps, err := o.putGroup(ctx, op, []memBlob{b}, c)
	if err != nil {
		return core.ObjectInfo{}, err
	}
	stored = storedBytes(ps...)
	return ps[0].info, nil
}

func expect(op string, opts core.PutOptions, id core.ContentID) error {
	if opts.Expect != nil && *opts.Expect != id {
		return core.Errorf(op, core.CodeCorrupt, "the bytes that came are %s, not %s as expected", id, *opts.Expect)
	}
	return nil
}

// fill reads until buf is full (nil) or r has ended (io.EOF) or failed. An
// unexpected end that r itself reports stays that error.
func fill(ctx context.Context, r io.Reader, buf []byte) (int, error) {
	n, empty := 0, 0
	for n < len(buf) {
		if err := ctx.Err(); err != nil {
			return n, err
		}
		m, err := r.Read(buf[n:])
		n += m
		if err != nil {
			return n, err
		}
		if m > 0 {
			empty = 0
		} else if empty++; empty == 100 {
			return n, io.ErrNoProgress
		}
	}
	return n, nil
}

// PutMany implements [core.ObjectStore]. Objects are stored in groups of 64.
func (o *Objects) PutMany(ctx context.Context, blobs []core.Blob) ([]core.ObjectInfo, error) {
	const op = "objects: put many"
	for i, b := range blobs {
		if err := checkContentType(b.ContentType); err != nil {
			return nil, core.Errorf(op, core.CodeInvalidArgument, "blob %d: %w", i, err)
		}
	}
	if err := o.enterToWrite(ctx, op); err != nil {
		return nil, err
	}
	defer o.calls.Done()
	out := make([]core.ObjectInfo, 0, len(blobs))
	for group := range slices.Chunk(blobs, groupSize) {
		ms := make([]memBlob, len(group))
		for i, b := range group {
			ms[i] = memBlob{core.SumContent(b.Data), b.Data, b.ContentType}
		}
		c := &claim{r: &o.room}
		ps, err := o.putGroup(ctx, op, ms, c)
		c.end(storedBytes(ps...))
		if err != nil {
			return nil, err
		}
		for _, m := range ms {
			i, _ := slices.BinarySearchFunc(ps, m.id, func(p *pending, id core.ContentID) int { return compareIDs(p.id, id) })
			out = append(out, ps[i].info)
		}
	}
	return out, nil
}

// putGroup stores blobs with shared syncs. It returns one pending for each
// distinct id, ascending; the first blob of an id gives the content type.
func (o *Objects) putGroup(ctx context.Context, op string, blobs []memBlob, c *claim) ([]*pending, error) {
	blobs = slices.Clone(blobs)
	slices.SortStableFunc(blobs, func(a, b memBlob) int { return compareIDs(a.id, b.id) })
	blobs = slices.CompactFunc(blobs, func(a, b memBlob) bool { return a.id == b.id })
	for i, b := range blobs {
		if err := o.flights.begin(ctx, b.id); err != nil {
			o.land(blobs[:i])
			return nil, core.Wrap(op, core.CodeCanceled, err)
		}
	}
	defer o.land(blobs)
	tmp := o.tmp.take()
	defer o.tmp.give(tmp)
	now := time.Now().UnixMilli()
	ps := make([]*pending, len(blobs))
	defer func() { o.discard(ps) }()
	var total int64
	for i, b := range blobs {
		p := &pending{id: b.id, meta: objectMeta{size: int64(len(b.data)), contentType: b.contentType, createdMS: now}}
		p.write = func() error { return p.writeTemps(tmp, b.data) }
		ps[i] = p
		stored, err := o.stands(op, p)
		if err != nil {
			return nil, err
		}
		if stored {
			continue
		}
		total += p.meta.size
		if err := c.grow(ctx, total); err != nil {
			return nil, err
		}
		if err := p.write(); err != nil {
			return nil, fsError(op, err)
		}
	}
	if err := o.publish(ctx, op, ps); err != nil {
		return nil, err
	}
	return ps, nil
}

func (o *Objects) land(blobs []memBlob) {
	for _, b := range blobs {
		o.flights.end(b.id)
	}
}

// stands reports whether p's bytes are stored already and are undamaged. It sets
// p.replace when something else lies there.
func (o *Objects) stands(op string, p *pending) (bool, error) {
	st, _, _, err := o.look(p.id)
	if err != nil {
		return false, fsError(op, err)
	}
	if st != whole && st != bare {
		return false, nil
	}
	switch err := o.hashStored(op, p.id); {
	case core.IsCode(err, core.CodeCorrupt):
		p.replace = true
		return false, nil
	case core.IsCode(err, core.CodeNotFound):
		return false, nil
	default:
		return st == whole, err
	}
}

// writeTemps writes the bytes and the meta of p to temporaries.
func (p *pending) writeTemps(tmp *session, data []byte) error {
	name, f, err := tmp.create()
	if err != nil {
		return err
	}
	p.blob = temp{name: name, file: f, want: p.meta.size}
	if _, err := f.Write(data); err != nil {
		return err
	}
	return p.writeMeta(tmp)
}

func (p *pending) writeMeta(tmp *session) error {
	name, f, err := tmp.create()
	if err != nil {
		return err
	}
	b := p.meta.encode(p.id)
	p.desc = temp{name: name, file: f, want: int64(len(b))}
	_, err = f.Write(b)
	return err
}

// storedBytes sums up what was stored anew.
func storedBytes(ps ...*pending) (sum int64) {
	for _, p := range ps {
		if p.stored {
			sum += p.meta.size
		}
	}
	return sum
}
