package cloudlocal

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"syscall"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Get implements [core.ObjectStore]. The reader also implements [io.WriterTo].
func (o *Objects) Get(ctx context.Context, id core.ContentID) (core.ObjectReader, error) {
	const op = "objects: get"
	if err := o.enter(ctx, op); err != nil {
		return nil, err
	}
	defer o.calls.Done()
	f, err := o.fs.Open(blobName(id))
	if err != nil {
		return nil, openError(op, id, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fsError(op, err), f.Close())
	}
	_, m, why, err := o.judge(id, info)
	if why != nil || err != nil {
		return nil, errors.Join(core.WithOp(op, why), fsError(op, err), f.Close())
	}
	return &objectReader{f: f, op: op, id: id, size: m.size, hash: core.NewContentHasher(), info: m.info(id), blocks: &o.blocks}, nil
}

// objectReader hands out the bytes of one object and hashes them on the way.
type objectReader struct {
	f      readFile
	op     string
	id     core.ContentID
	size   int64 // bytes the object must have; -1: unknown
	read   int64
	hash   *core.ContentHasher
	err    error // what every further Read returns
	info   core.ObjectInfo
	blocks *blockPool
}

var _ core.ObjectReader = (*objectReader)(nil)
var _ io.WriterTo = (*objectReader)(nil)

func (r *objectReader) Info() core.ObjectInfo { return r.info }

func (r *objectReader) Read(p []byte) (int, error) {
	if r.err != nil || len(p) == 0 {
		return 0, r.err
	}
	n, err := r.f.Read(p)
	r.hash.Write(p[:n])
	r.read += int64(n)
	switch {
	case r.size >= 0 && r.read > r.size:
		r.err = corrupt(r.op, r.id, "it has more than its %d bytes", r.size)
		n -= int(r.read - r.size)
	case errors.Is(err, io.EOF):
		r.err = r.verdict()
	case err != nil:
		r.err = readError(r.op, r.id, err)
	}
	if n > 0 {
		return n, nil
	}
	return 0, r.err
}

// verdict is what the end of the bytes means: io.EOF when they are the object's.
func (r *objectReader) verdict() error {
	switch sum := r.hash.ID(); {
	case r.size >= 0 && r.read < r.size:
		return corrupt(r.op, r.id, "it ends after %d of %d bytes", r.read, r.size)
	case sum != r.id:
		return corrupt(r.op, r.id, "its %d bytes are those of %s", r.read, sum)
	}
	return io.EOF
}

// WriteTo implements [io.WriterTo] with blocks that hash faster than the small
// buffer of io.Copy.
func (r *objectReader) WriteTo(w io.Writer) (int64, error) {
	b := r.blocks.get()
	defer r.blocks.put(b)
	var total int64
	for {
		n, err := r.Read(b.buf)
		if n > 0 {
			m, werr := w.Write(b.buf[:n])
			total += int64(m)
			if werr == nil && m < n {
				werr = io.ErrShortWrite
			}
			if werr != nil {
				return total, werr
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

func (r *objectReader) Close() error {
	err := r.f.Close()
	if errors.Is(err, fs.ErrClosed) {
		return nil
	}
	if r.err == nil {
		r.err = core.Errorf(r.op, core.CodeClosed, "the reader is closed")
	}
	return fsError(r.op, err)
}

// readError gives an error of reading stored bytes its code: what the disk cannot
// read is damaged.
func readError(op string, id core.ContentID, err error) error {
	if isReadFault(err) {
		return corrupt(op, id, "the disk cannot read it: %v", err)
	}
	return fsError(op, err)
}

func isReadFault(err error) bool { return errors.Is(err, syscall.EIO) }

// GetRange implements [core.ObjectStore]. The bytes are not verified.
func (o *Objects) GetRange(ctx context.Context, id core.ContentID, offset, length int64) (io.ReadCloser, error) {
	const op = "objects: get range"
	if offset < 0 {
		return nil, core.Errorf(op, core.CodeInvalidArgument, "offset %d is negative", offset)
	}
	if err := o.enter(ctx, op); err != nil {
		return nil, err
	}
	defer o.calls.Done()
	f, err := o.fs.Open(blobName(id))
	if err != nil {
		return nil, openError(op, id, err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fsError(op, err), f.Close())
	}
	left := max(info.size-offset, 0)
	if length < 0 || length > left {
		length = left
	}
	return &rangeReader{f: f, op: op, id: id, r: io.NewSectionReader(f, offset, length)}, nil
}

type rangeReader struct {
	f  readFile
	op string
	id core.ContentID
	r  *io.SectionReader
}

func (r *rangeReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = readError(r.op, r.id, err)
	}
	return n, err
}

func (r *rangeReader) Close() error {
	if err := r.f.Close(); err != nil && !errors.Is(err, fs.ErrClosed) {
		return fsError(r.op, err)
	}
	return nil
}

// Stat implements [core.ObjectStore]. An object without a meta was created when
// its file was last written.
func (o *Objects) Stat(ctx context.Context, id core.ContentID) (core.ObjectInfo, error) {
	const op = "objects: stat"
	if err := o.enter(ctx, op); err != nil {
		return core.ObjectInfo{}, err
	}
	defer o.calls.Done()
	return o.describe(op, id)
}

// Exists implements [core.ObjectStore].
func (o *Objects) Exists(ctx context.Context, id core.ContentID) (bool, error) {
	const op = "objects: exists"
	if err := o.enter(ctx, op); err != nil {
		return false, err
	}
	defer o.calls.Done()
	_, err := o.fs.Stat(blobName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, fsError(op, err)
}
