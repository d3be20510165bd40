package cloudlocal

import (
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// state is what a look at an object's two files shows, without reading its bytes.
type state uint8

const (
	absent  state = iota // there are no bytes
	damaged              // the bytes or the meta cannot be right
	bare                 // bytes without a meta
	whole                // bytes and a meta that agree
)

// look describes what is stored under id. why says what is wrong with a damaged
// object. The error is one of the disk.
func (o *Objects) look(id core.ContentID) (st state, m objectMeta, why error, err error) {
	info, err := o.fs.Stat(blobName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return absent, objectMeta{}, nil, nil
	}
	if err != nil {
		return absent, objectMeta{}, nil, err
	}
	return o.judge(id, info)
}

// judge is look for a blob whose file is known already.
func (o *Objects) judge(id core.ContentID, info fileInfo) (st state, m objectMeta, why error, err error) {
	const op = "objects: look"
	if !info.regular {
		return damaged, objectMeta{}, corrupt(op, id, "it is not a plain file"), nil
	}
	var buf [maxMeta + 1]byte
	n, err := o.fs.ReadInto(metaName(id), buf[:])
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return bare, objectMeta{size: info.size, createdMS: info.modTime.UnixMilli()}, nil, nil
	case core.IsCode(err, core.CodeCorrupt), isReadFault(err):
		return damaged, objectMeta{}, corrupt(op, id, "its meta cannot be read: %v", err), nil
	case err != nil:
		return absent, objectMeta{}, nil, err
	case n > maxMeta:
		return damaged, objectMeta{}, corrupt(op, id, "its meta has more than %d bytes", maxMeta), nil
	}
	m, derr := decodeMeta(id, buf[:n])
	switch {
	case derr != nil:
		return damaged, objectMeta{}, corrupt(op, id, "its meta cannot be read: %v", derr), nil
	case m.size != info.size:
		return damaged, objectMeta{}, corrupt(op, id, "it has %d bytes, its meta says %d", info.size, m.size), nil
	}
	return whole, m, nil, nil
}

// info is what callers see of an object.
func (m objectMeta) info(id core.ContentID) core.ObjectInfo {
	return core.ObjectInfo{ID: id, Size: m.size, ContentType: m.contentType, CreatedAt: time.UnixMilli(m.createdMS).UTC()}
}

// describe returns what is known of a stored object, [core.CodeNotFound] or
// [core.CodeCorrupt].
func (o *Objects) describe(op string, id core.ContentID) (core.ObjectInfo, error) {
	st, m, why, err := o.look(id)
	switch {
	case err != nil:
		return core.ObjectInfo{}, fsError(op, err)
	case st == absent:
		return core.ObjectInfo{}, notFound(op, id)
	case st == damaged:
		return core.ObjectInfo{}, core.WithOp(op, why)
	}
	return m.info(id), nil
}

// hashStored reads the bytes stored under id and compares them with it.
// [core.CodeNotFound] and [core.CodeCorrupt] say what is wrong with them.
func (o *Objects) hashStored(op string, id core.ContentID) error {
	f, err := o.fs.Open(blobName(id))
	if err != nil {
		return openError(op, id, err)
	}
	r := &objectReader{f: f, op: op, id: id, size: -1, hash: core.NewContentHasher()}
	b := o.blocks.get()
	defer o.blocks.put(b)
	for {
		if _, err = r.Read(b.buf); err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return errors.Join(err, r.Close())
}

func openError(op string, id core.ContentID, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return notFound(op, id)
	case core.IsCode(err, core.CodeCorrupt):
		return corrupt(op, id, "it is not a plain file")
	}
	return fsError(op, err)
}
