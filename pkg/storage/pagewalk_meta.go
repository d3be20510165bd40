package storage

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// The layout of a bbolt file, in bytes. Integers are in the machine's order, as
// bbolt maps them straight into memory.
const (
	pageHeaderLen   = 16 // u64 id, u16 flags, u16 count, u32 overflow
	metaLen         = 64 // the meta record behind the header of pages 0 and 1
	metaSumAt       = metaLen - 8
	branchElemLen   = 16 // u32 position, u32 key size, u64 page
	leafElemLen     = 16 // u32 flags, u32 position, u32 key size, u32 value size
	bucketHeaderLen = 16 // u64 root page, u64 sequence
	pageIDLen       = 8

	metaMagic   = 0xED0CDAED
	metaVersion = 2

	flagBranch   = 0x01
	flagLeaf     = 0x02
	flagMeta     = 0x04
	flagFreelist = 0x10

	elemBucket = 0x01 // leaf element: the value is a bucket

	minPageSize = 1 << 10
	maxPageSize = 1 << 24

	noFreelist = ^uint64(0) // the list of free pages is not kept in the file
)

const opWalk = "storage: check pages"

// metaPage is what one of the two meta pages says. bbolt alternates between
// them, so that a commit cut short leaves the other one whole.
type metaPage struct {
	err       error // nil: sound; otherwise CodeCorrupt, naming the page and what is wrong
	usable    bool  // bbolt takes it: magic, version and checksum hold
	foreign   bool  // no magic number: not written by bbolt at all
	version   uint32
	pageSize  int
	root      uint64 // page of the root bucket
	freelist  uint64 // page of the free list, or noFreelist
	highWater uint64 // pages at and above this id were never allocated
	txid      uint64
}

// metaState is both meta pages and which of them counts.
type metaState struct {
	pages    [2]metaPage
	active   int   // the page that bbolt reads the tree from, -1 when neither is usable
	pageSize int   // bytes; 0 when neither is usable
	fatal    error // the active page leads outside the file; CodeCorrupt
}

// damaged returns what is wrong with a meta page, nil when both are sound. A
// file with a usable page and one damaged can be opened: bbolt reads from the
// usable one, and two empty commits write both again.
func (s *metaState) damaged() error {
	return errors.Join(s.pages[0].err, s.pages[1].err)
}

// foreign reports whether neither page was written by bbolt.
func (s *metaState) foreign() bool { return s.pages[0].foreign && s.pages[1].foreign }

// readMetas reads and judges both meta pages of the file of size bytes behind
// r. The error is about reading, or CodeCorrupt when no meta page is usable; the
// state is valid in the second case too.
func readMetas(r io.ReaderAt, size int64) (metaState, error) {
	st := metaState{active: -1}
	var err error
	if st.pages[0], err = readMeta(r, size, 0, 0); err != nil {
		return st, err
	}
	if st.pages[0].usable {
		st.pages[1], err = readMeta(r, size, 1, int64(st.pages[0].pageSize))
	} else {
		st.pages[1], err = findSecondMeta(r, size)
	}
	if err != nil {
		return st, err
	}
	for i := range st.pages {
		p := &st.pages[i]
		if p.usable && (st.active < 0 || p.txid > st.pages[st.active].txid) {
			st.active, st.pageSize = i, p.pageSize
		}
	}
	if st.active < 0 {
		return st, core.Errorf(opWalk, core.CodeCorrupt, "neither meta page is usable: %w", st.damaged())
	}
	st.judge(size)
	return st, nil
}

// findSecondMeta looks for page 1 when page 0 does not tell the page size, at
// the same places as bbolt.
func findSecondMeta(r io.ReaderAt, size int64) (metaPage, error) {
	var first *metaPage
	for at := int64(minPageSize); at <= maxPageSize && at < size-minPageSize; at <<= 1 {
		p, err := readMeta(r, size, 1, at)
		if err != nil {
			return p, err
		}
		if p.usable && int64(p.pageSize) == at {
			return p, nil
		}
		if first == nil || first.foreign && !p.foreign {
			first = &p
		}
	}
	if first == nil {
		return metaPage{foreign: true, err: core.Errorf(opWalk, core.CodeCorrupt, "meta page 1: the file ends before it, at %d bytes", size)}, nil
	}
	return *first, nil
}

// readMeta reads the meta page with that number at that offset.
func readMeta(r io.ReaderAt, size int64, number int, at int64) (metaPage, error) {
	var p metaPage
	bad := func(format string, args ...any) {
		if p.err == nil {
			p.err = core.Errorf(opWalk, core.CodeCorrupt, "meta page %d: "+format, append([]any{number}, args...)...)
		}
	}
	if at+pageHeaderLen+metaLen > size {
		p.foreign = true
		bad("the file ends before it, at %d bytes", size)
		return p, nil
	}
	var buf [pageHeaderLen + metaLen]byte
	if err := readFull(r, buf[:], at); err != nil {
		return p, core.Wrap(opWalk, core.CodeUnavailable, err)
	}
	h, m := decodeHeader(buf[:]), buf[pageHeaderLen:]
	ne := binary.NativeEndian
	p.foreign = ne.Uint32(m) != metaMagic
	p.version = ne.Uint32(m[4:])
	p.pageSize = int(ne.Uint32(m[8:]))
	p.root = ne.Uint64(m[16:])
	p.freelist = ne.Uint64(m[32:])
	p.highWater = ne.Uint64(m[40:])
	p.txid = ne.Uint64(m[48:])
	sum := fnv.New64a()
	sum.Write(m[:metaSumAt])
	switch {
	case p.foreign:
		bad("no bbolt magic number")
	case p.version != metaVersion:
		bad("format version %d, this program reads %d", p.version, metaVersion)
	case ne.Uint64(m[metaSumAt:]) != sum.Sum64():
		bad("checksum does not match")
	case p.pageSize < minPageSize || p.pageSize > maxPageSize || p.pageSize&(p.pageSize-1) != 0:
		bad("impossible page size %d", p.pageSize)
	default:
		p.usable = true
	}
	if h.id != uint64(number) || h.flags != flagMeta || h.count != 0 || h.overflow != 0 {
		bad("header says page %d, flags %#x, count %d, overflow %d", h.id, h.flags, h.count, h.overflow)
	}
	return p, nil
}

// judge checks what the usable meta pages say against the file and each other.
func (s *metaState) judge(size int64) {
	for i := range s.pages {
		p := &s.pages[i]
		if p.err != nil {
			continue
		}
		switch {
		case p.pageSize != s.pageSize:
			p.err = core.Errorf(opWalk, core.CodeCorrupt, "meta page %d: page size %d, the other page says %d", i, p.pageSize, s.pageSize)
		case p.txid%2 != uint64(i):
			p.err = core.Errorf(opWalk, core.CodeCorrupt, "meta page %d: transaction %d belongs on the other page", i, p.txid)
		case i != s.active && p.txid+1 != s.pages[s.active].txid:
			p.err = core.Errorf(opWalk, core.CodeCorrupt, "meta page %d: transaction %d is not the one before %d", i, p.txid, s.pages[s.active].txid)
		}
	}
	s.fatal = s.judgeActive(size)
	if p := &s.pages[s.active]; p.err == nil {
		p.err = s.fatal
	}
}

// judgeActive checks that the active meta page leads to pages that exist.
func (s *metaState) judgeActive(size int64) error {
	p := &s.pages[s.active]
	switch {
	case p.highWater > uint64(size)/uint64(s.pageSize):
		return core.Errorf(opWalk, core.CodeCorrupt, "meta page %d: %d pages in use, the file holds %d", s.active, p.highWater, size/int64(s.pageSize))
	case p.root < 2 || p.root >= p.highWater:
		return core.Errorf(opWalk, core.CodeCorrupt, "meta page %d: root page %d is outside the %d pages in use", s.active, p.root, p.highWater)
	case p.freelist != noFreelist && (p.freelist < 2 || p.freelist >= p.highWater):
		return core.Errorf(opWalk, core.CodeCorrupt, "meta page %d: free list page %d is outside the %d pages in use", s.active, p.freelist, p.highWater)
	}
	return nil
}

// readFull fills b from offset at. The caller has compared with the file's size,
// so an early end means that the file shrank, and is an error like any other.
func readFull(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
