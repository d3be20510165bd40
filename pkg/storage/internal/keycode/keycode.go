// Package keycode turns a [core.Key] into bytes that sort as the key does, and
// back.
//
// The encoding leaves the namespace out, because each namespace has a bucket of
// its own. What remains is
//
//	tag      0x00: no run, 0x01: a run, whose 16 bytes follow
//	segment  its bytes, 0x00 written as 01 01 and 0x01 as 01 02
//	0x00     after every segment
//
// Two properties make it useful. Order: since a terminator is smaller than any
// byte that a segment is written with, comparing encodings compares keys segment
// by segment, a path before its extensions. Prefix: since every segment is
// terminated, the keys below a prefix are exactly those whose encoding starts
// with the prefix's encoding.
//
// Keys decide how many pages a commit writes, so the encoding adds one byte, one
// for each segment, and one for each zero or one byte inside a segment.
package keycode

import (
	"bytes"
	"strings"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	tagNoRun = 0x00
	tagRun   = 0x01

	terminator = 0x00
	escape     = 0x01
	escZero    = 0x01 // follows escape: the byte 0x00
	escOne     = 0x02 // follows escape: the byte 0x01
)

// GroupLen is the length of the bytes that name one group of rows, those of one
// run or those without a run: 1 or 17.
const (
	GroupLenNoRun = 1
	GroupLenRun   = 1 + 16
)

// Append appends the encoding of key to dst. The key must be valid.
func Append(dst []byte, key core.Key) []byte {
	if key.Run.IsZero() {
		dst = append(dst, tagNoRun)
	} else {
		dst = append(dst, tagRun)
		dst = append(dst, key.Run[:]...)
	}
	for _, s := range key.Path {
		dst = appendSegment(dst, s)
	}
	return dst
}

func appendSegment(dst []byte, s string) []byte {
	if strings.IndexByte(s, terminator) < 0 && strings.IndexByte(s, escape) < 0 {
		return append(append(dst, s...), terminator)
	}
	for i := range len(s) {
		switch s[i] {
		case terminator:
			dst = append(dst, escape, escZero)
		case escape:
			dst = append(dst, escape, escOne)
		default:
			dst = append(dst, s[i])
		}
	}
	return append(dst, terminator)
}

// PrefixEnd returns the smallest byte string greater than everything that starts
// with prefix, or nil when there is none.
func PrefixEnd(prefix []byte) []byte {
	end := bytes.Clone(prefix)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] != 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return nil
}

// Next returns the smallest byte string greater than enc.
func Next(enc []byte) []byte { return append(bytes.Clone(enc), 0) }

// Group returns the leading bytes of an encoding that name its run, or nil when
// enc is too short to be one.
func Group(enc []byte) []byte {
	switch {
	case len(enc) >= GroupLenNoRun && enc[0] == tagNoRun:
		return enc[:GroupLenNoRun]
	case len(enc) >= GroupLenRun && enc[0] == tagRun:
		return enc[:GroupLenRun]
	}
	return nil
}

// IsGroup reports whether enc is the prefix of a whole run, or of everything
// without one.
func IsGroup(enc []byte) bool { return len(enc) > 0 && len(Group(enc)) == len(enc) }

// Decode returns the key of namespace ns that enc encodes. Anything that [Append]
// cannot have produced from a valid key is [core.CodeCorrupt].
func Decode(ns core.Namespace, enc []byte) (core.Key, error) {
	var a Arena
	return a.Decode(ns, enc)
}
