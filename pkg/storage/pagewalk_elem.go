package storage

import (
	"bytes"
	"encoding/binary"
)

// elements reads the array of elements that follows a page's header. bbolt
// writes keys and values behind the array without gaps, in the array's order, so
// the only place where an element may point is where the one before it ended.
type elements struct {
	page  uint64 // named in errors
	data  []byte // the whole run, or the value's part that is an inline page
	count int
	in    keyRange
	prev  []byte // key of the element before, nil at the first
	end   int    // where the element before ended
}

// start checks that the array itself fits.
func (e *elements) start() error {
	e.end = pageHeaderLen + e.count*leafElemLen
	if e.end > len(e.data) {
		return corruptPage(e.page, "%d elements do not fit into %d bytes", e.count, len(e.data))
	}
	return nil
}

// elem returns the fixed part of element i.
func (e *elements) elem(i int) []byte {
	at := pageHeaderLen + i*leafElemLen
	return e.data[at : at+leafElemLen]
}

// next returns the bytes of element i, which follow the ones of the element
// before it: a key of ksize bytes and a value of vsize bytes.
func (e *elements) next(i int, vsize, pos, ksize uint32) (key, value []byte, err error) {
	if at := pageHeaderLen + i*leafElemLen + int(pos); at != e.end {
		return nil, nil, corruptPage(e.page, "element %d points to byte %d instead of %d", i, at, e.end)
	}
	if ksize == 0 || ksize > maxKeySize {
		return nil, nil, corruptPage(e.page, "element %d has a key of %d bytes", i, ksize)
	}
	if int64(ksize)+int64(vsize) > int64(len(e.data)-e.end) {
		return nil, nil, corruptPage(e.page, "element %d reaches beyond the page", i)
	}
	mid := e.end + int(ksize)
	key = e.data[e.end:mid]
	e.end = mid + int(vsize)
	switch {
	case e.prev != nil && bytes.Compare(e.prev, key) >= 0:
		return nil, nil, corruptPage(e.page, "key %d is not above the one before it", i)
	case bytes.Compare(key, e.in.low) < 0:
		return nil, nil, corruptPage(e.page, "key %d is below the range of this page", i)
	case e.in.high != nil && bytes.Compare(key, e.in.high) >= 0:
		return nil, nil, corruptPage(e.page, "key %d is above the range of this page", i)
	}
	return key, e.data[mid:e.end], nil
}

// leafNext is next for a leaf page.
func (e *elements) leafNext(i int) (flags uint32, key, value []byte, err error) {
	ne, el := binary.NativeEndian, e.elem(i)
	flags = ne.Uint32(el)
	if flags&^elemBucket != 0 {
		return flags, nil, nil, corruptPage(e.page, "element %d has flags %#x", i, flags)
	}
	// The position counts from the element, in branches and leaves alike.
	key, value, err = e.next(i, ne.Uint32(el[12:]), ne.Uint32(el[4:]), ne.Uint32(el[8:]))
	return flags, key, value, err
}

// branchNext is next for a branch page.
func (e *elements) branchNext(i int) (key []byte, err error) {
	ne, el := binary.NativeEndian, e.elem(i)
	key, _, err = e.next(i, 0, ne.Uint32(el), ne.Uint32(el[4:]))
	return key, err
}

// branchChild returns the key and the page of a branch element that branchNext
// has accepted.
func (e *elements) branchChild(i int) (key []byte, page uint64) {
	ne, el := binary.NativeEndian, e.elem(i)
	at := pageHeaderLen + i*branchElemLen + int(ne.Uint32(el))
	return e.data[at : at+int(ne.Uint32(el[4:]))], ne.Uint64(el[8:])
}
