package storage

import (
	"encoding/binary"
	"io"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// maxTreeDepth bounds the branch pages and nested buckets above a leaf. With two
// keys to a page, the least that bbolt writes, 64 levels are beyond any disk.
const maxTreeDepth = 64

// maxKeySize is bbolt's own limit for a key, in bytes.
const maxKeySize = 32768

// pageStats is what a walk met.
type pageStats struct {
	Pages    uint64 // in use or free, both meta pages included
	Free     uint64 // in the free list
	Branch   uint64 // branch pages, overflow pages not counted
	Leaf     uint64 // leaf pages, overflow pages not counted
	Overflow uint64 // continuation pages of branch and leaf pages
	Buckets  uint64 // every bucket below the root
	Keys     uint64 // rows of all buckets
	Depth    int    // most pages between the root and a leaf, both included
}

// walkPages reads every page that the active meta page of st leads to, through
// r and never through bbolt, and returns CodeCorrupt naming the page as soon as
// one is not what bbolt writes: another id or kind, counts and elements beyond
// the page, keys out of order or outside what the page above promises, a page
// reached twice, used and free at once, or neither.
//
// bbolt trusts all of this: a damaged page makes it panic, read outside the file
// or follow a cycle until the stack overflows, which nothing recovers. Only keys,
// values, bucket sequences and unused bytes are left unjudged.
//
// A damaged meta page beside a usable one is no reason to stop here: see
// [metaState.damaged]. Memory is one bit for each page, and one page run for each level of the tree.
func walkPages(r io.ReaderAt, st metaState) (pageStats, error) {
	if st.fatal != nil {
		return pageStats{}, st.fatal
	}
	m := &st.pages[st.active]
	w := &pageWalk{
		r: r, pageSize: st.pageSize, highWater: m.highWater,
		seen:  make([]uint64, (m.highWater+63)/64),
		stats: pageStats{Pages: m.highWater},
	}
	w.seen[0] |= 3 // the meta pages
	if err := w.tree(m.root, 0, keyRange{}); err != nil {
		return w.stats, err
	}
	if m.freelist != noFreelist {
		if err := w.freelist(m.freelist); err != nil {
			return w.stats, err
		}
	}
	return w.stats, nil
}

// pageWalk is the state of one walk.
type pageWalk struct {
	r         io.ReaderAt
	pageSize  int
	highWater uint64
	seen      []uint64 // one bit a page: reached or free
	bufs      [][]byte // the page run being read at each depth
	stats     pageStats
}

// keyRange is what the pages above promise: every key is at least low and, unless
// high is nil, less than high.
type keyRange struct{ low, high []byte }

// pageHeader is the start of every page.
type pageHeader struct {
	id       uint64
	flags    uint16
	count    uint16
	overflow uint32
}

func decodeHeader(b []byte) pageHeader {
	ne := binary.NativeEndian
	return pageHeader{id: ne.Uint64(b), flags: ne.Uint16(b[8:]), count: ne.Uint16(b[10:]), overflow: ne.Uint32(b[12:])}
}

func corruptPage(id uint64, format string, args ...any) error {
	return core.Errorf(opWalk, core.CodeCorrupt, "page %d: "+format, append([]any{id}, args...)...)
}

// claim marks n pages from id as reached.
func (w *pageWalk) claim(id, n uint64) error {
	if id < 2 || id >= w.highWater || n > w.highWater-id {
		return corruptPage(id, "%d pages from here are outside the %d in use", n, w.highWater)
	}
	for p := id; p < id+n; p++ {
		if w.seen[p/64]&(1<<(p%64)) != 0 {
			return corruptPage(p, "reached twice")
		}
		w.seen[p/64] |= 1 << (p % 64)
	}
	return nil
}

// load claims and reads the run of pages that starts with id. The bytes stay
// valid until the next load at the same depth.
func (w *pageWalk) load(id uint64, depth int) (pageHeader, []byte, error) {
	if err := w.claim(id, 1); err != nil {
		return pageHeader{}, nil, err
	}
	for len(w.bufs) <= depth {
		w.bufs = append(w.bufs, make([]byte, w.pageSize))
	}
	page := w.bufs[depth][:w.pageSize]
	at := int64(id) * int64(w.pageSize)
	if err := readFull(w.r, page, at); err != nil {
		return pageHeader{}, nil, core.Wrap(opWalk, core.CodeUnavailable, err)
	}
	h := decodeHeader(page)
	if h.id != id {
		return h, nil, corruptPage(id, "calls itself page %d", h.id)
	}
	if h.overflow == 0 {
		return h, page, nil
	}
	if err := w.claim(id+1, uint64(h.overflow)); err != nil {
		return h, nil, err
	}
	run := (int(h.overflow) + 1) * w.pageSize
	if cap(w.bufs[depth]) < run {
		w.bufs[depth] = append(make([]byte, 0, run), page...)
	}
	w.bufs[depth] = w.bufs[depth][:run]
	if err := readFull(w.r, w.bufs[depth][w.pageSize:], at+int64(w.pageSize)); err != nil {
		return h, nil, core.Wrap(opWalk, core.CodeUnavailable, err)
	}
	return h, w.bufs[depth], nil
}

// tree walks the page id and everything below it.
func (w *pageWalk) tree(id uint64, depth int, in keyRange) error {
	if depth >= maxTreeDepth {
		return corruptPage(id, "more than %d levels deep", maxTreeDepth)
	}
	h, b, err := w.load(id, depth)
	if err != nil {
		return err
	}
	w.stats.Overflow += uint64(h.overflow)
	w.stats.Depth = max(w.stats.Depth, depth+1)
	switch h.flags {
	case flagBranch:
		w.stats.Branch++
		return w.branch(id, h, b, depth, in)
	case flagLeaf:
		w.stats.Leaf++
		return w.leaf(id, h, b, depth, in)
	}
	return corruptPage(id, "flags %#x are neither a branch nor a leaf", h.flags)
}

// branch walks the children of a branch page, each within the range that its own
// key and the next one give.
func (w *pageWalk) branch(id uint64, h pageHeader, b []byte, depth int, in keyRange) error {
	if h.count == 0 {
		return corruptPage(id, "a branch without children")
	}
	es := elements{page: id, data: b, count: int(h.count), in: in}
	if err := es.start(); err != nil {
		return err
	}
	for i := range es.count {
		key, err := es.branchNext(i)
		if err != nil {
			return err
		}
		es.prev = key
	}
	for i := range es.count {
		key, page := es.branchChild(i)
		child := keyRange{low: key, high: in.high}
		if i+1 < es.count {
			child.high, _ = es.branchChild(i + 1)
		}
		if err := w.tree(page, depth+1, child); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks the rows of a leaf page and walks the buckets among them.
func (w *pageWalk) leaf(id uint64, h pageHeader, b []byte, depth int, in keyRange) error {
	es := elements{page: id, data: b, count: int(h.count), in: in}
	if err := es.start(); err != nil {
		return err
	}
	for i := range es.count {
		flags, key, value, err := es.leafNext(i)
		if err != nil {
			return err
		}
		es.prev = key
		w.stats.Keys++
		if flags == elemBucket {
			w.stats.Buckets++
			if err := w.bucket(id, value, depth); err != nil {
				return err
			}
		}
	}
	return nil
}

// bucket walks a nested bucket: a tree of its own, or one leaf inside the value.
func (w *pageWalk) bucket(id uint64, value []byte, depth int) error {
	if len(value) < bucketHeaderLen {
		return corruptPage(id, "a bucket header of %d bytes", len(value))
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return w.tree(root, depth+1, keyRange{})
	}
	page := value[bucketHeaderLen:]
	if len(page) < pageHeaderLen {
		return corruptPage(id, "an inline bucket of %d bytes", len(page))
	}
	h := decodeHeader(page)
	if h.id != 0 || h.flags != flagLeaf || h.overflow != 0 {
		return corruptPage(id, "an inline bucket with page id %d, flags %#x, overflow %d", h.id, h.flags, h.overflow)
	}
	es := elements{page: id, data: page, count: int(h.count)}
	if err := es.start(); err != nil {
		return err
	}
	for i := range es.count {
		flags, key, _, err := es.leafNext(i)
		if err != nil {
			return err
		}
		if flags != 0 {
			return corruptPage(id, "a bucket inside an inline bucket")
		}
		es.prev = key
		w.stats.Keys++
	}
	if es.end != len(page) {
		return corruptPage(id, "an inline bucket has %d bytes behind its rows", len(page)-es.end)
	}
	return nil
}

// freelist checks the list of free pages: each in use by nobody, in order, and
// together with the tree every page there is.
func (w *pageWalk) freelist(id uint64) error {
	h, b, err := w.load(id, 0)
	if err != nil {
		return err
	}
	if h.flags != flagFreelist {
		return corruptPage(id, "flags %#x are not a free list", h.flags)
	}
	ids, count := b[pageHeaderLen:], uint64(h.count)
	if h.count == 0xFFFF {
		count = binary.NativeEndian.Uint64(ids)
		ids = ids[pageIDLen:]
	}
	if count > uint64(len(ids)/pageIDLen) {
		return corruptPage(id, "%d free pages do not fit into the list", count)
	}
	var prev uint64
	for i := range count {
		free := binary.NativeEndian.Uint64(ids[i*pageIDLen:])
		if free <= prev {
			return corruptPage(id, "free pages out of order: %d after %d", free, prev)
		}
		prev = free
		if err := w.claim(free, 1); err != nil {
			return core.Errorf(opWalk, core.CodeCorrupt, "page %d: listed as free: %w", id, err)
		}
	}
	w.stats.Free = count
	for p := uint64(2); p < w.highWater; p++ {
		if w.seen[p/64]&(1<<(p%64)) == 0 {
			return corruptPage(p, "neither used nor free")
		}
	}
	return nil
}
