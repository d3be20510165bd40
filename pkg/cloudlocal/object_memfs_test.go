package cloudlocal

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// memFS is a file system in memory that knows what a power cut would leave: for
// each file the bytes, and for each directory the names, as of the last sync.
type memFS struct {
	mu    sync.Mutex
	root  *memNode
	free  int64 // what Free returns
	full  int64 // bytes that may still be written before ENOSPC; negative: no limit
	whole bool  // it can be synced as a whole
}

type memNode struct {
	dir         bool
	data        []byte
	synced      []byte
	names       map[string]*memNode
	syncedNames map[string]*memNode
	modTime     time.Time
	holder      *memDir
}

func newMemFS() *memFS { return &memFS{root: newMemDir(), free: 1 << 40, full: -1} }

func newMemDir() *memNode {
	return &memNode{dir: true, names: map[string]*memNode{}, syncedNames: map[string]*memNode{}, modTime: time.Now()}
}

// crash returns what is found after a power cut. Of what was not synced, rnd says
// piece by piece what has reached the disk; nil loses all of it.
func (m *memFS) crash(rnd *rand.Rand) *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	after := newMemFS()
	after.root = m.root.crash(rnd, map[*memNode]*memNode{})
	return after
}

func (n *memNode) crash(rnd *rand.Rand, seen map[*memNode]*memNode) *memNode {
	if c := seen[n]; c != nil {
		return c
	}
	lucky := func() bool { return rnd != nil && rnd.IntN(2) == 0 }
	if !n.dir {
		data := n.synced // files only grow, so what was synced stays
		if more := len(n.data) - len(n.synced); more > 0 && lucky() {
			written := rnd.IntN(more + 1)
			data = append(slices.Clone(n.data[:len(n.synced)+written]), make([]byte, more-written)...)
		}
		c := &memNode{data: slices.Clone(data), synced: slices.Clone(data), modTime: n.modTime}
		seen[n] = c
		return c
	}
	c := newMemDir()
	seen[n] = c
	all := maps.Clone(n.syncedNames)
	maps.Copy(all, n.names)
	for name := range all {
		child := n.syncedNames[name]
		if n.names[name] != child && lucky() {
			child = n.names[name]
		}
		if child != nil {
			c.names[name] = child.crash(rnd, seen)
		}
	}
	c.syncedNames = maps.Clone(c.names)
	return c
}

// find returns the node of a name. The caller holds mu.
func (m *memFS) find(name string) (*memNode, error) {
	n := m.root
	if name == "." {
		return n, nil
	}
	for part := range strings.SplitSeq(name, "/") {
		if !n.dir {
			return nil, &fs.PathError{Op: "find", Path: name, Err: syscall.ENOTDIR}
		}
		next := n.names[part]
		if next == nil {
			return nil, &fs.PathError{Op: "find", Path: name, Err: syscall.ENOENT}
		}
		n = next
	}
	return n, nil
}

// parent returns the directory of a name and its last part.
func (m *memFS) parent(name string) (*memNode, string, error) {
	dir, base := path.Split(name)
	if dir == "" {
		return m.root, base, nil
	}
	n, err := m.find(strings.TrimSuffix(dir, "/"))
	return n, base, err
}

func (m *memFS) add(name string, n *memNode) error {
	dir, base, err := m.parent(name)
	if err != nil {
		return err
	}
	if dir.names[base] != nil {
		return &fs.PathError{Op: "add", Path: name, Err: syscall.EEXIST}
	}
	dir.names[base] = n
	return nil
}

func (m *memFS) Create(name string) (writeFile, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := &memNode{modTime: time.Now()}
	if err := m.add(name, n); err != nil {
		return nil, err
	}
	return &memFile{m: m, n: n}, nil
}

func (m *memFS) Open(name string) (readFile, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil {
		return nil, err
	}
	if n.dir {
		return nil, notPlain(name)
	}
	return &memReader{memFile{m: m, n: n}, 0}, nil
}

func (m *memFS) ReadInto(name string, buf []byte) (int, error) {
	f, err := m.Open(name)
	if err != nil {
		return 0, err
	}
	n, err := f.ReadAt(buf, 0)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return n, err
}

func (m *memFS) Stat(name string) (fileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil {
		return fileInfo{}, err
	}
	return fileInfo{size: int64(len(n.data)), modTime: n.modTime, regular: !n.dir}, nil
}

func (m *memFS) Mkdir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.add(name, newMemDir())
}

func (m *memFS) ReadDir(name string) ([]fs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil {
		return nil, err
	}
	var out []fs.DirEntry
	for _, base := range slices.Sorted(maps.Keys(n.names)) {
		out = append(out, memEntry{base, n.names[base]})
	}
	return out, nil
}

func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, aBase, err := m.parent(from)
	if err != nil {
		return err
	}
	b, bBase, err := m.parent(to)
	if err != nil {
		return err
	}
	n := a.names[aBase]
	if n == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: syscall.ENOENT}
	}
	delete(a.names, aBase)
	b.names[bBase] = n
	return nil
}

func (m *memFS) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent(name)
	if err != nil {
		return err
	}
	switch n := dir.names[base]; {
	case n == nil:
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOENT}
	case len(n.names) > 0:
		return &fs.PathError{Op: "remove", Path: name, Err: syscall.ENOTEMPTY}
	}
	delete(dir.names, base)
	return nil
}

func (m *memFS) Touch(name string, t time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err == nil {
		n.modTime = t
	}
	return err
}

func (m *memFS) OpenDir(name string) (directory, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.find(name)
	if err != nil {
		return nil, err
	}
	return &memDir{m: m, n: n}, nil
}

func (m *memFS) SyncAll() bool { return m.syncAll(true, true) }

// syncAll syncs all files, all directories, or both, where the file system can.
func (m *memFS) syncAll(files, dirs bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	var visit func(*memNode)
	visit = func(n *memNode) {
		switch {
		case n.dir && dirs:
			n.syncedNames = maps.Clone(n.names)
		case !n.dir && files:
			n.synced = slices.Clone(n.data)
		}
		for _, child := range n.names {
			visit(child)
		}
	}
	if m.whole {
		visit(m.root)
	}
	return m.whole
}

func (m *memFS) Free() (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.free, nil
}

func (m *memFS) Close() error { return nil }

// temporaries counts the files below tmp.
func (m *memFS) temporaries() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if tmp := m.root.names[tmpDir]; tmp != nil {
		for _, session := range tmp.names {
			n += len(session.names)
		}
	}
	return n
}

type memEntry struct {
	name string
	n    *memNode
}

func (e memEntry) Name() string { return e.name }
func (e memEntry) IsDir() bool  { return e.n.dir }
func (e memEntry) Type() fs.FileMode {
	if e.n.dir {
		return fs.ModeDir
	}
	return 0
}
func (e memEntry) Info() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }

type memFile struct {
	m *memFS
	n *memNode
}

func (f *memFile) Write(p []byte) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	n := len(p)
	if f.m.full >= 0 && int64(n) > f.m.full {
		n = int(f.m.full)
	}
	f.n.data = append(f.n.data, p[:n]...)
	f.n.modTime = time.Now()
	if f.m.full >= 0 {
		f.m.full -= int64(n)
	}
	if n < len(p) {
		return n, &fs.PathError{Op: "write", Path: "memory", Err: syscall.ENOSPC}
	}
	return n, nil
}

func (f *memFile) StartSync(int64, int64) {}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.n.synced = slices.Clone(f.n.data)
	return nil
}

func (f *memFile) Stat() (fileInfo, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	return fileInfo{size: int64(len(f.n.data)), modTime: f.n.modTime, regular: true}, nil
}

func (f *memFile) Close() error { return nil }

type memReader struct {
	memFile
	off int64
}

func (r *memReader) Read(p []byte) (int, error) {
	n, err := r.ReadAt(p, r.off)
	r.off += int64(n)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

func (r *memReader) ReadAt(p []byte, off int64) (int, error) {
	r.m.mu.Lock()
	defer r.m.mu.Unlock()
	if off >= int64(len(r.n.data)) {
		return 0, io.EOF
	}
	n := copy(p, r.n.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

type memDir struct {
	m *memFS
	n *memNode
}

func (d *memDir) Sync() error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	d.n.syncedNames = maps.Clone(d.n.names)
	return nil
}

func (d *memDir) TryLock() (bool, error) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if d.n.holder != nil && d.n.holder != d {
		return false, nil
	}
	d.n.holder = d
	return true, nil
}

func (d *memDir) Close() error {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if d.n.holder == d {
		d.n.holder = nil
	}
	return nil
}

// releaseLocks drops every lock, as the kernel does for a process that is gone.
func (m *memFS) releaseLocks() {
	m.mu.Lock()
	defer m.mu.Unlock()
	var drop func(*memNode)
	drop = func(n *memNode) {
		n.holder = nil
		for _, child := range n.names {
			drop(child)
		}
	}
	drop(m.root)
}
