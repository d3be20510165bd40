package storage

import (
	"bytes"
	"context"
	"reflect"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Row is one decoded row.
type Row[T any] struct {
	Key      core.Key
	Value    T
	Revision uint64
}

// Encode returns v as MessagePack. Equal values have equal encodings, whatever
// the order of their maps, so that [CAS] can compare. A value that cannot be
// encoded is [core.CodeInvalidArgument].
func Encode[T any](v T) ([]byte, error) {
	const op = "storage: encode"
	enc := msgpack.GetEncoder()
	defer msgpack.PutEncoder(enc)
	var buf bytes.Buffer
	enc.Reset(&buf)
	enc.UseCompactInts(true)
	enc.UseCompactFloats(false)
	enc.SetSortMapKeys(true)
	if err := enc.Encode(v); err != nil {
		return nil, core.Errorf(op, core.CodeInvalidArgument, "%T: %w", v, err)
	}
	if !mayHoldMap(reflect.TypeFor[T](), 0) {
		return buf.Bytes(), nil
	}
	out, err := sortMaps(buf.Bytes())
	if err != nil {
		return nil, core.Errorf(op, core.CodeInternal, "%T: %w", v, err)
	}
	return out, nil
}

// Decode reads what [Encode] made. Fields that T does not have are passed over
// and fields that are not there stay zero, so that rows outlive a change of T;
// anything else that does not fit is [core.CodeSchemaViolation].
func Decode[T any](b []byte) (v T, err error) {
	const op = "storage: decode"
	defer func() {
		if r := recover(); r != nil { // the decoder panics on some bytes that do not fit
			var zero T
			v, err = zero, core.Errorf(op, core.CodeSchemaViolation, "%d bytes are no %T: %v", len(b), zero, r)
		}
	}()
	dec := msgpack.GetDecoder()
	defer msgpack.PutDecoder(dec)
	r := bytes.NewReader(b)
	dec.Reset(r)
	if err := dec.Decode(&v); err != nil {
		var zero T
		return zero, core.Errorf(op, core.CodeSchemaViolation, "%d bytes are no %T: %w", len(b), v, err)
	}
	if r.Len() > 0 {
		var zero T
		return zero, core.Errorf(op, core.CodeSchemaViolation, "%d bytes follow a %T", r.Len(), v)
	}
	return v, nil
}

// Get returns the decoded row of key and its revision, or [core.CodeNotFound].
func Get[T any](ctx context.Context, r core.Reader, key core.Key) (v T, revision uint64, err error) {
	e, err := core.Get(ctx, r, key)
	if err != nil {
		return v, 0, err
	}
	v, err = decodeRow[T](e)
	return v, e.Revision, err
}

// GetMany returns one decoded row for each key, in their order; a row that is not
// there has revision 0 and a zero value.
func GetMany[T any](ctx context.Context, r core.Reader, keys ...core.Key) ([]Row[T], error) {
	es, err := r.GetMany(ctx, keys...)
	if err != nil {
		return nil, err
	}
	return decodeRows[T](es)
}

// Put stages a write of v.
func Put[T any](tx core.Txn, key core.Key, v T) error {
	b, err := Encode(v)
	if err != nil {
		return core.WithOp("storage: put "+key.String(), err)
	}
	return tx.Put(key, b)
}

// PutOne writes v in a transaction of its own and returns its revision.
func PutOne[T any](ctx context.Context, s core.Storage, key core.Key, v T) (uint64, error) {
	b, err := Encode(v)
	if err != nil {
		return 0, core.WithOp("storage: put "+key.String(), err)
	}
	return core.PutBytes(ctx, s, key, b)
}

// CAS stages the replacement of old by v if the row holds old now, and reports
// whether it did. A nil old means that the row must be absent, a nil v removes
// it, as in [core.Txn.CompareAndSwap].
func CAS[T any](ctx context.Context, tx core.Txn, key core.Key, old, v *T) (bool, error) {
	was, err := encodePointer(old)
	if err != nil {
		return false, err
	}
	is, err := encodePointer(v)
	if err != nil {
		return false, err
	}
	return tx.CompareAndSwap(ctx, key, was, is)
}

func encodePointer[T any](v *T) ([]byte, error) {
	if v == nil {
		return nil, nil
	}
	return Encode(*v)
}

// Scan returns the decoded rows below prefix.
func Scan[T any](ctx context.Context, r core.Reader, prefix core.Key, opts core.ScanOptions) ([]Row[T], error) {
	es, err := r.Scan(ctx, prefix, opts)
	if err != nil {
		return nil, err
	}
	return decodeRows[T](es)
}

func decodeRows[T any](es []core.Entry) ([]Row[T], error) {
	out := make([]Row[T], len(es))
	for i, e := range es {
		out[i].Key, out[i].Revision = e.Key, e.Revision
		if !e.Exists() {
			continue
		}
		var err error
		if out[i].Value, err = decodeRow[T](e); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func decodeRow[T any](e core.Entry) (T, error) {
	v, err := Decode[T](e.Value)
	if err != nil {
		return v, core.WithOp("storage: row "+e.Key.String(), err)
	}
	return v, nil
}
