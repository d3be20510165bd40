package cloudlocal

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vmihailenco/msgpack/v5"
)

// Unpack decodes one MessagePack record. A record that promises more bytes or
// elements than it has is refused before any memory is taken for them: the decoder
// itself believes what it reads.
func Unpack(b []byte, v any) error {
	if err := checkPacked(b); err != nil {
		return err
	}
	return msgpack.Unmarshal(b, v)
}

var errCutShort = errors.New("the record is cut short")

// checkPacked walks over one value and whatever it holds. What follows it is not
// looked at.
func checkPacked(b []byte) error {
	for left := uint64(1); left > 0; left-- {
		if len(b) == 0 {
			return errCutShort
		}
		head, body, more, err := packedSizes(b)
		if err != nil {
			return err
		}
		// Every element that is still to come has a byte at least.
		if uint64(len(b)) < head+body || uint64(len(b))-head-body < left-1+more {
			return errCutShort
		}
		b = b[head+body:]
		left += more
	}
	return nil
}

// packedSizes returns the bytes of the first value's head and of its body, and how
// many values it holds.
func packedSizes(b []byte) (head, body, more uint64, err error) {
	// length reads a length of n bytes behind the first.
	length := func(n int) uint64 {
		var wide [8]byte
		if len(b) > n {
			copy(wide[8-n:], b[1:1+n])
		}
		return binary.BigEndian.Uint64(wide[:])
	}
	switch c := b[0]; {
	case c < 0x80, c >= 0xe0, c == 0xc0, c == 0xc2, c == 0xc3: // small numbers, nil, truth values
		return 1, 0, 0, nil
	case c < 0x90: // a short map
		return 1, 0, 2 * uint64(c&0x0f), nil
	case c < 0xa0: // a short array
		return 1, 0, uint64(c & 0x0f), nil
	case c < 0xc0: // a short string
		return 1, uint64(c & 0x1f), 0, nil
	case c >= 0xc4 && c <= 0xc6: // bytes
		n := 1 << (c - 0xc4)
		return uint64(1 + n), length(n), 0, nil
	case c >= 0xc7 && c <= 0xc9: // an extension
		n := 1 << (c - 0xc7)
		return uint64(2 + n), length(n), 0, nil
	case c == 0xca, c == 0xcb: // floating point
		return 1, 4 << (c - 0xca), 0, nil
	case c >= 0xcc && c <= 0xcf: // without a sign
		return 1, 1 << (c - 0xcc), 0, nil
	case c >= 0xd0 && c <= 0xd3: // with one
		return 1, 1 << (c - 0xd0), 0, nil
	case c >= 0xd4 && c <= 0xd8: // an extension of fixed size
		return 2, 1 << (c - 0xd4), 0, nil
	case c >= 0xd9 && c <= 0xdb: // a string
		n := 1 << (c - 0xd9)
		return uint64(1 + n), length(n), 0, nil
	case c == 0xdc, c == 0xdd: // an array
		n := 2 << (c - 0xdc)
		return uint64(1 + n), 0, length(n), nil
	case c == 0xde, c == 0xdf: // a map
		n := 2 << (c - 0xde)
		return uint64(1 + n), 0, 2 * length(n), nil
	default:
		return 0, 0, 0, fmt.Errorf("the record holds byte %#x, which begins no value", c)
	}
}
