package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
)

// The encoder sorts maps with string keys and few kinds of values; all others
// come out in Go's random order. sortMaps puts every map of an encoding in the
// order of its encoded keys.

// maxNesting bounds how deep types and encodings are followed.
const maxNesting = 64

// mayHoldMap reports whether a value of type t can hold a map. In doubt it can.
func mayHoldMap(t reflect.Type, depth int) bool {
	if depth > maxNesting {
		return true
	}
	switch t.Kind() {
	case reflect.Map, reflect.Interface:
		return true
	case reflect.Pointer, reflect.Slice, reflect.Array:
		return mayHoldMap(t.Elem(), depth+1)
	case reflect.Struct:
		for i := range t.NumField() {
			if mayHoldMap(t.Field(i).Type, depth+1) {
				return true
			}
		}
	}
	return false
}

var errEncoding = errors.New("no valid MessagePack")

// sortMaps returns one encoded value with its maps sorted.
func sortMaps(b []byte) ([]byte, error) {
	out, rest, err := sortValue(make([]byte, 0, len(b)), b, 0)
	if err == nil && len(rest) > 0 {
		err = errEncoding
	}
	return out, err
}

// sortValue appends the first value of b to dst and returns what follows it.
func sortValue(dst, b []byte, depth int) (out, rest []byte, err error) {
	h, err := readHeader(b)
	if err != nil || depth > maxNesting || len(b) < h.size+h.data {
		return nil, nil, errEncoding
	}
	dst = append(dst, b[:h.size+h.data]...)
	b = b[h.size+h.data:]
	if !h.isMap {
		for range h.items {
			if dst, b, err = sortValue(dst, b, depth+1); err != nil {
				return nil, nil, err
			}
		}
		return dst, b, nil
	}
	type pair struct{ key, value []byte }
	pairs := make([]pair, 0, min(h.items, len(b)))
	for range h.items {
		var p pair
		if p.key, b, err = sortValue(nil, b, depth+1); err != nil {
			return nil, nil, err
		}
		if p.value, b, err = sortValue(nil, b, depth+1); err != nil {
			return nil, nil, err
		}
		pairs = append(pairs, p)
	}
	slices.SortFunc(pairs, func(x, y pair) int { return bytes.Compare(x.key, y.key) })
	for _, p := range pairs {
		dst = append(append(dst, p.key...), p.value...)
	}
	return dst, b, nil
}

// header describes the first value of an encoding.
type header struct {
	size  int  // bytes of the type and length
	data  int  // bytes that follow as they are
	items int  // values that follow; of a map, pairs of them
	isMap bool // the items are pairs
}

// readHeader reads the type and the length of a value. See the MessagePack
// specification, which gives each first byte its meaning.
func readHeader(b []byte) (h header, err error) {
	if len(b) == 0 {
		return h, errEncoding
	}
	h.size = 1
	switch c := b[0]; {
	case c <= 0x7f || c >= 0xe0 || c == 0xc0 || c == 0xc2 || c == 0xc3: // small int, nil, bool
	case c <= 0x8f:
		h.items, h.isMap = int(c&0x0f), true
	case c <= 0x9f:
		h.items = int(c & 0x0f)
	case c <= 0xbf:
		h.data = int(c & 0x1f)
	case c >= 0xc4 && c <= 0xc6: // bin
		h.data, err = h.length(b, 1<<(c-0xc4))
	case c >= 0xc7 && c <= 0xc9: // ext: one byte of type more
		h.data, err = h.length(b, 1<<(c-0xc7))
		h.data++
	case c == 0xca || c == 0xcb: // float
		h.data = 4 << (c - 0xca)
	case c >= 0xcc && c <= 0xcf: // uint
		h.data = 1 << (c - 0xcc)
	case c >= 0xd0 && c <= 0xd3: // int
		h.data = 1 << (c - 0xd0)
	case c >= 0xd4 && c <= 0xd8: // fixext
		h.data = 1 + 1<<(c-0xd4)
	case c >= 0xd9 && c <= 0xdb: // str
		h.data, err = h.length(b, 1<<(c-0xd9))
	case c == 0xdc || c == 0xdd: // array
		h.items, err = h.length(b, 2<<(c-0xdc))
	case c == 0xde || c == 0xdf: // map
		h.items, err = h.length(b, 2<<(c-0xde))
		h.isMap = true
	default:
		err = errEncoding
	}
	return h, err
}

// length reads a big-endian length of n bytes behind the first byte.
func (h *header) length(b []byte, n int) (int, error) {
	if len(b) < 1+n {
		return 0, errEncoding
	}
	h.size += n
	switch n {
	case 1:
		return int(b[1]), nil
	case 2:
		return int(binary.BigEndian.Uint16(b[1:])), nil
	}
	return int(binary.BigEndian.Uint32(b[1:])), nil
}
