package keycode

import (
	"bytes"
	"strings"
	"unsafe"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// maxChunk bounds one shared allocation of an [Arena], in bytes: the largest size
// class of the allocator. It also bounds what one retained row keeps alive beyond
// itself.
const maxChunk = 32 << 10

// Arena hands out small pieces of shared allocations, so that decoding many rows
// costs few of them. Pieces never overlap and have no spare capacity; a piece
// that is kept alive keeps its chunk alive. The zero value is ready, starts small
// and belongs to one goroutine.
type Arena struct {
	bytes []byte   // unused rest of the current chunk
	paths []string // unused rest of the current chunk
	nextB int      // size of the next chunk of bytes
	nextP int      // size of the next chunk of paths
}

// uncleared returns at least n bytes, n > 0, with any content. Clearing what is about
// to be written over costs a scan as much as its checksums; only a builder's memory
// comes without.
func uncleared(n int) []byte {
	var b strings.Builder
	b.Grow(n)
	b.WriteByte(0) // an empty string has no address to speak of
	return unsafe.Slice(unsafe.StringData(b.String()), b.Cap())
}

// Bytes returns n fresh bytes with any content, which the caller fills.
func (a *Arena) Bytes(n int) []byte {
	if n > len(a.bytes) {
		if n > maxChunk/4 {
			return make([]byte, n)
		}
		a.nextB = min(max(2*a.nextB, 512), maxChunk)
		a.bytes = uncleared(max(a.nextB, n))
	}
	b := a.bytes[:n:n]
	a.bytes = a.bytes[n:]
	return b
}

// Copy returns a copy of b that is never nil.
func (a *Arena) Copy(b []byte) []byte {
	c := a.Bytes(len(b))
	copy(c, b)
	if c == nil {
		c = []byte{}
	}
	return c
}

func (a *Arena) path(n int) []string {
	if n > len(a.paths) {
		a.nextP = min(max(2*a.nextP, 4), maxChunk/16)
		a.paths = make([]string, max(a.nextP, n))
	}
	p := a.paths[:n:n]
	a.paths = a.paths[n:]
	return p
}

// Decode is [Decode] with the arena's memory.
func (a *Arena) Decode(ns core.Namespace, enc []byte) (key core.Key, err error) {
	err = a.DecodeInto(&key, ns, enc)
	return key, err
}

// DecodeInto is Decode into a key that has its place already, with any content.
func (a *Arena) DecodeInto(key *core.Key, ns core.Namespace, enc []byte) error {
	*key = core.Key{Namespace: ns}
	group := Group(enc)
	if group == nil {
		return damaged(ns, enc)
	}
	if len(group) == GroupLenRun {
		copy(key.Run[:], group[1:])
		if key.Run.IsZero() {
			return damaged(ns, enc)
		}
	}
	rest := enc[len(group):]
	n := bytes.Count(rest, []byte{terminator})
	if n == 0 {
		if len(rest) > 0 {
			return damaged(ns, enc)
		}
		return nil
	}
	if n > core.MaxKeySegments || rest[len(rest)-1] != terminator {
		return damaged(ns, enc)
	}
	text := a.Bytes(len(rest))
	key.Path = a.path(n)
	total := 0
	for i := range key.Path {
		end := len(rest) - 1 // of the last segment
		if i < n-1 {
			end = bytes.IndexByte(rest, terminator)
		}
		seg, ok := unescape(text[:0], rest[:end])
		if !ok {
			return damaged(ns, enc)
		}
		total += len(seg)
		// The bytes are written once, above, and never again: the arena gives each
		// out only once. So they may be viewed as a string.
		if len(seg) > 0 {
			key.Path[i] = unsafe.String(unsafe.SliceData(seg), len(seg))
		}
		text, rest = text[len(seg):], rest[end+1:]
	}
	if total > core.MaxKeyLen {
		return damaged(ns, enc)
	}
	return nil
}

// unescape appends the segment that enc stands for to dst, whose capacity
// suffices because escaping only lengthens.
func unescape(dst, enc []byte) ([]byte, bool) {
	for {
		i := bytes.IndexByte(enc, escape)
		if i < 0 {
			return append(dst, enc...), true
		}
		if i+1 >= len(enc) || enc[i+1] != escZero && enc[i+1] != escOne {
			return nil, false
		}
		dst = append(dst, enc[:i]...)
		dst = append(dst, enc[i+1]-1)
		enc = enc[i+2:]
	}
}

func damaged(ns core.Namespace, enc []byte) error {
	if len(enc) > 64 {
		enc = enc[:64]
	}
	return core.Errorf("storage key", core.CodeCorrupt, "key %x in namespace %q is not an encoded key", enc, ns)
}
