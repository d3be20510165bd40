package storage

import (
	"bytes"
	"context"
	"runtime/debug"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/keycode"
)

// GetMany implements [core.Reader]. In an open file it promises the checksum of
// each row that it finds; that a row has vanished shows in a scan of its group.
func (s *Store) GetMany(ctx context.Context, keys ...core.Key) (out []core.Entry, err error) {
	for i := range keys {
		if err := keys[i].Validate(); err != nil {
			return nil, core.WithOp(opGet, err)
		}
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			out, err = nil, panicked(opGet, r)
		}
	}()
	tx, err := s.beginRead(ctx, opGet)
	if err != nil {
		return nil, err
	}
	defer endRead(tx)
	buf := s.keyBufs.Get().(*[]byte)
	defer s.keyBufs.Put(buf)
	out = make([]core.Entry, len(keys))
	r := rowReader{s: s, tx: tx}
	for i := range keys {
		out[i].Key = keys[i]
		enc := keycode.Append((*buf)[:0], keys[i])
		*buf = enc
		found, ok, err := r.get(opGet, keys[i].Namespace, enc)
		if err != nil {
			return nil, err
		}
		if ok {
			out[i].Value = append(make([]byte, 0, len(found.value)), found.value...)
			out[i].Revision = found.rev
		}
	}
	return out, nil
}

// rowReader finds rows in one state and keeps the bucket of the last one at hand.
type rowReader struct {
	s      *Store
	tx     *bolt.Tx
	ns     core.Namespace
	seed   uint32
	bucket *bolt.Bucket // nil when the namespace has none
}

// get returns the row of an encoded key; ok is false when there is none. The row
// lies in the mapped file.
func (r *rowReader) get(op string, ns core.Namespace, enc []byte) (found row, ok bool, err error) {
	if r.ns != ns {
		r.ns, r.bucket, r.seed = ns, r.tx.Bucket([]byte(ns)), envelopeSeed(ns)
	}
	if r.bucket == nil {
		return row{}, false, nil
	}
	k, stored := r.bucket.Cursor().Seek(enc)
	if !bytes.Equal(k, enc) {
		return row{}, false, nil
	}
	found, err = r.s.openRow(op, ns, r.seed, k, stored)
	return found, err == nil, err
}

// openRow verifies a stored row.
func (s *Store) openRow(op string, ns core.Namespace, seed uint32, key, stored []byte) (row, error) {
	r, ok := openEnvelope(stored, seed, key)
	if !ok && !(s.hook.noChecksum && r.rev != 0) {
		return row{}, errDamagedRow(op, ns, key)
	}
	return r, nil
}
