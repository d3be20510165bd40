package core

import (
	"context"
	"io"
	"iter"
	"time"
)

// ObjectInfo describes a stored object. Content type and creation time are those
// of the first writer; later writers of equal bytes change nothing.
type ObjectInfo struct {
	ID          ContentID `json:"id"`
	Size        int64     `json:"size"`         // bytes
	ContentType string    `json:"content_type"` // as given by the first writer; may be empty
	CreatedAt   time.Time `json:"created_at"`   // to the millisecond
}

// PutOptions qualifies a put.
type PutOptions struct {
	ContentType string     // kept with the object; at most 255 bytes of printable ASCII
	Size        int64      // bytes that will come, -1 or 0 when unknown; used to refuse early when there is no room
	Expect      *ContentID // when set, other bytes are refused as CodeCorrupt and nothing is stored
}

// Blob is one object of a batch, held in memory.
type Blob struct {
	Data        []byte
	ContentType string
}

// ObjectReader streams one object and verifies it on the way. It belongs to one
// goroutine. Bytes are handed out before the whole is verified: the reader's last
// Read returns [CodeCorrupt] in place of io.EOF when the object is damaged, and a
// caller that must not act on damaged bytes waits for io.EOF.
type ObjectReader interface {
	io.ReadCloser
	// Info describes the object being read.
	Info() ObjectInfo
}

// VerifyResult is one damaged object.
type VerifyResult struct {
	ID          ContentID
	Err         error // CodeCorrupt or CodeNotFound, with what is wrong
	Quarantined bool  // the object was moved out of reach
}

// GCResult sums up a collection.
type GCResult struct {
	Kept    int64 // objects that were marked or too young
	Removed int64 // objects removed
	Freed   int64 // bytes of the removed objects
}

// ObjectStore keeps immutable bytes under their content id.
//
// Durability: an object whose put returned nil is whole and survives power loss;
// one whose put failed leaves nothing visible. Writers of equal bytes at the same
// time all succeed and one object results. Absence is [CodeNotFound], damage
// [CodeCorrupt], a full disk, quota or floor [CodeExhausted].
type ObjectStore interface {
	// Put stores what r yields, in constant memory. An error of r is returned
	// under its own code and nothing is stored. The computed hash is the id; the
	// stored bytes are not read back.
	Put(ctx context.Context, r io.Reader, opts PutOptions) (ObjectInfo, error)

	// PutMany stores blobs with shared syncs and returns one info for each, in
	// order. On an error none, some or all are stored; a second call is safe.
	PutMany(ctx context.Context, blobs []Blob) ([]ObjectInfo, error)

	// Get opens an object; see [ObjectReader] for what verified means.
	Get(ctx context.Context, id ContentID) (ObjectReader, error)

	// GetRange opens length bytes from offset, fewer at the object's end; a length
	// below 0 means to the end. A part cannot be verified and is not.
	GetRange(ctx context.Context, id ContentID, offset, length int64) (io.ReadCloser, error)

	// Stat describes an object without reading its bytes.
	Stat(ctx context.Context, id ContentID) (ObjectInfo, error)

	// Exists reports whether the object is there, at the cost of one look-up.
	Exists(ctx context.Context, id ContentID) (bool, error)

	// Delete removes objects. One that is not there is no error.
	Delete(ctx context.Context, ids ...ContentID) error

	// List yields the objects with ids behind after, ascending; the zero id starts
	// at the first. Objects added or removed meanwhile may or may not appear.
	List(ctx context.Context, after ContentID) iter.Seq2[ObjectInfo, error]

	// Verify reads the named objects, or all when ids is empty, and returns the
	// damaged and the missing ones. With quarantine damaged ones are moved out of
	// reach, so that a new put of the same bytes is stored again.
	Verify(ctx context.Context, ids []ContentID, quarantine bool) ([]VerifyResult, error)

	// GC removes every object that live does not report and that is older than
	// grace. live is asked once for each old enough object, must be true for
	// everything referenced, and its error stops the collection. A put of bytes
	// that are just being removed stores them again.
	GC(ctx context.Context, live func(ContentID) (bool, error), grace time.Duration) (GCResult, error)

	// Close waits for running calls.
	Close() error
}

// PutBlob stores b as one object.
func PutBlob(ctx context.Context, s ObjectStore, b []byte, contentType string) (ObjectInfo, error) {
	infos, err := s.PutMany(ctx, []Blob{{Data: b, ContentType: contentType}})
	if err != nil {
		return ObjectInfo{}, err
	}
	return infos[0], nil
}

// ReadBlob returns a whole object, verified, and [CodeTooLarge] when it has more
// than limit bytes.
func ReadBlob(ctx context.Context, s ObjectStore, id ContentID, limit int64) ([]byte, error) {
	r, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size := r.Info().Size; size > limit {
		return nil, Errorf("read object", CodeTooLarge, "object %s has %d bytes, at most %d are accepted", id, size, limit)
	}
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, Errorf("read object", CodeTooLarge, "object %s has more than %d bytes", id, limit)
	}
	return b, nil
}
