package core

import (
	"encoding/hex"
	"hash"

	"github.com/zeebo/blake3"
)

// ContentIDSize is the length of a [ContentID] in bytes.
const ContentIDSize = 32

// ContentID names bytes by their BLAKE3-256 hash. Equal bytes have equal ids on
// every machine, so an id is also the proof of what it names.
type ContentID [ContentIDSize]byte

// SumContent returns the id of b.
func SumContent(b []byte) ContentID { return blake3.Sum256(b) }

// ContentHasher computes a [ContentID] piece by piece. It belongs to one
// goroutine.
type ContentHasher struct{ h *blake3.Hasher }

var _ hash.Hash = (*ContentHasher)(nil)

// NewContentHasher returns a hasher that has seen no bytes.
func NewContentHasher() *ContentHasher { return &ContentHasher{h: blake3.New()} }

// Write adds p to the hashed bytes. It never fails.
func (c *ContentHasher) Write(p []byte) (int, error) { return c.h.Write(p) }

// ID returns the id of the bytes seen so far; more may follow.
func (c *ContentHasher) ID() ContentID {
	var id ContentID
	c.h.Sum(id[:0])
	return id
}

// Sum appends the 32 hash bytes of what was seen so far to b.
func (c *ContentHasher) Sum(b []byte) []byte { return c.h.Sum(b) }

// Reset forgets every byte seen.
func (c *ContentHasher) Reset() { c.h.Reset() }

// Size returns [ContentIDSize].
func (c *ContentHasher) Size() int { return ContentIDSize }

// BlockSize returns the write size in bytes that hashes fastest.
func (c *ContentHasher) BlockSize() int { return c.h.BlockSize() }

// ParseContentID reads 64 lower-case hexadecimal digits. Every other text,
// upper case included, is [CodeInvalidArgument], so that an id can be used as a
// file name without further thought.
func ParseContentID(s string) (ContentID, error) {
	var id ContentID
	if len(s) != 2*ContentIDSize {
		return id, Errorf("parse content id", CodeInvalidArgument, "%q is not a content id: it has %d bytes, not %d", clip(s), len(s), 2*ContentIDSize)
	}
	for i := 0; i < len(s); i++ {
		if c := s[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return id, Errorf("parse content id", CodeInvalidArgument, "%q is not a content id: byte %d is not a lower-case hexadecimal digit", clip(s), i)
		}
	}
	if _, err := hex.Decode(id[:], []byte(s)); err != nil {
		return ContentID{}, Wrap("parse content id", CodeInvalidArgument, err)
	}
	return id, nil
}

// String returns the 64 lower-case hexadecimal digits of the id.
func (id ContentID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether id is the zero value, which names nothing.
func (id ContentID) IsZero() bool { return id == ContentID{} }

// MarshalText implements [encoding.TextMarshaler]; the zero id is the empty text.
func (id ContentID) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return []byte{}, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler]; the empty text is the zero id.
func (id *ContentID) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*id = ContentID{}
		return nil
	}
	v, err := ParseContentID(string(b))
	if err != nil {
		return err
	}
	*id = v
	return nil
}
