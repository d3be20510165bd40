package cloudlocal

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Each row is measured twice: ours, and by hand, which is the same protocol written
// plainly with package os.

const benchSmall = 4 << 10

// benchBlob is the n-th distinct object of 4 KiB.
func benchBlob(n uint64) []byte {
	b := bytes.Repeat([]byte("rollout "), benchSmall/8)
	binary.LittleEndian.PutUint64(b, n+uint64(time.Now().UnixNano())<<20)
	return b
}

func benchObjects(b *testing.B, root string) *Objects {
	b.Helper()
	o, err := OpenObjects(b.Context(), ObjectsConfig{Root: root, Logger: quiet()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := o.Close(); err != nil {
			b.Error(err)
		}
	})
	return o
}

type handMeta struct {
	Size        int64  `json:"size"`
	ContentType string `json:"content_type"`
	CreatedAtMS int64  `json:"created_at_ms"`
}

// handPut stores one object plainly: temporary, write, sync, rename, for the bytes
// and for the meta, then the directories that received a name.
func handPut(root string, b []byte) error {
	h := core.SumContent(b).String()
	meta, err := json.Marshal(handMeta{Size: int64(len(b)), CreatedAtMS: time.Now().UnixMilli()})
	if err != nil {
		return err
	}
	outer := filepath.Join(root, h[:2])
	inner := filepath.Join(outer, h[2:4])
	dirs := []string{inner}
	newOuter, newInner := os.Mkdir(outer, 0o700), os.Mkdir(inner, 0o700)
	if newInner == nil {
		dirs = append(dirs, outer)
	}
	if newOuter == nil {
		dirs = append(dirs, root)
	}
	if err := handFile(inner, h, b); err != nil {
		return err
	}
	if err := handFile(inner, h+".meta.json", meta); err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := syncPath(dir); err != nil {
			return err
		}
	}
	return nil
}

func handFile(dir, name string, b []byte) error {
	f, err := os.CreateTemp(dir, "tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, name))
}

// shared runs b.N calls of do on that many goroutines.
func shared(b *testing.B, goroutines int, do func(n uint64) error) {
	b.Helper()
	var next atomic.Uint64
	var group sync.WaitGroup
	errs := make([]error, goroutines)
	b.ResetTimer()
	for g := range goroutines {
		group.Go(func() {
			for n := next.Add(1); n <= uint64(b.N) && errs[g] == nil; n = next.Add(1) {
				errs[g] = do(n)
			}
		})
	}
	group.Wait()
	b.StopTimer()
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "objects/s")
}

func BenchmarkObjectPut(b *testing.B) {
	for _, writers := range []int{1, 16} {
		b.Run(fmt.Sprintf("%d-writers/ours", writers), func(b *testing.B) {
			o := benchObjects(b, b.TempDir())
			shared(b, writers, func(n uint64) error {
				_, err := o.Put(b.Context(), bytes.NewReader(benchBlob(n)), core.PutOptions{Size: benchSmall})
				return err
			})
		})
		b.Run(fmt.Sprintf("%d-writers/hand", writers), func(b *testing.B) {
			root := b.TempDir()
			shared(b, writers, func(n uint64) error { return handPut(root, benchBlob(n)) })
		})
	}
}

// BenchmarkObjectPutMany puts 64 objects at a time; one operation is one object.
func BenchmarkObjectPutMany(b *testing.B) {
	o := benchObjects(b, b.TempDir())
	blobs := make([]core.Blob, 0, groupSize)
	b.ResetTimer()
	for n := range b.N {
		blobs = append(blobs, core.Blob{Data: benchBlob(uint64(n))})
		if len(blobs) == groupSize || n == b.N-1 {
			if _, err := o.PutMany(b.Context(), blobs); err != nil {
				b.Fatal(err)
			}
			blobs = blobs[:0]
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "objects/s")
}

const benchLarge = 256 << 20

// pattern yields bytes without holding them, as fast as memory can be copied.
type pattern struct {
	left  int64
	block []byte
}

func newPattern(n int64, seed uint64) *pattern { return &pattern{n, noise(1<<20, seed)} }

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.block[(benchLarge-p.left)%int64(len(p.block)):])
	n = int(min(int64(n), p.left))
	p.left -= int64(n)
	return n, nil
}

// peak samples the heap while f runs and returns how far it rose.
func peak(f func()) float64 {
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	highest := before.HeapInuse
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for tick := time.NewTicker(10 * time.Millisecond); ; {
			select {
			case <-tick.C:
				runtime.ReadMemStats(&now)
				highest = max(highest, now.HeapInuse)
			case <-stop:
				tick.Stop()
				return
			}
		}
	}()
	f()
	close(stop)
	<-done
	return float64(highest - before.HeapInuse)
}

// BenchmarkObjectStream puts 256 MiB. By hand they are written and synced, and not
// even hashed. Each put replaces the one before, so that the disk does not fill.
func BenchmarkObjectStream(b *testing.B) {
	b.Run("ours", func(b *testing.B) {
		o := benchObjects(b, b.TempDir())
		b.SetBytes(benchLarge)
		var rise float64
		for n := range b.N {
			b.StopTimer()
			src := newPattern(benchLarge, uint64(n)+uint64(time.Now().UnixNano()))
			b.StartTimer()
			var info core.ObjectInfo
			var err error
			rise = max(rise, peak(func() { info, err = o.Put(b.Context(), src, core.PutOptions{Size: benchLarge}) }))
			b.StopTimer()
			if err := errors.Join(err, o.Delete(b.Context(), info.ID)); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
		b.ReportMetric(rise, "peak-B")
	})
	b.Run("hand", func(b *testing.B) {
		name := filepath.Join(b.TempDir(), "stream")
		b.SetBytes(benchLarge)
		for n := range b.N {
			b.StopTimer()
			src := newPattern(benchLarge, uint64(n))
			b.StartTimer()
			f, err := os.Create(name)
			if err != nil {
				b.Fatal(err)
			}
			_, err = io.CopyBuffer(struct{ io.Writer }{f}, src, make([]byte, 1<<20))
			if err := errors.Join(err, f.Sync(), f.Close(), syncPath(filepath.Dir(name))); err != nil {
				b.Fatal(err)
			}
			b.StopTimer()
			if err := os.Remove(name); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
}

// BenchmarkObjectGet reads 256 MiB that are in the page cache and verifies them.
func BenchmarkObjectGet(b *testing.B) {
	o := benchObjects(b, b.TempDir())
	info, err := o.Put(b.Context(), newPattern(benchLarge, 1), core.PutOptions{})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("ours", func(b *testing.B) {
		b.SetBytes(benchLarge)
		for b.Loop() {
			r, err := o.Get(b.Context(), info.ID)
			if err != nil {
				b.Fatal(err)
			}
			_, err = io.Copy(io.Discard, r)
			if err := errors.Join(err, r.Close()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("hand", func(b *testing.B) {
		b.SetBytes(benchLarge)
		buf := make([]byte, 1<<20)
		for b.Loop() {
			f, err := os.Open(filepath.Join(o.cfg.Root, blobName(info.ID)))
			if err != nil {
				b.Fatal(err)
			}
			h := core.NewContentHasher()
			for err == nil {
				var n int
				n, err = f.Read(buf)
				h.Write(buf[:n])
			}
			if cerr := f.Close(); !errors.Is(err, io.EOF) || cerr != nil || h.ID() != info.ID {
				b.Fatal(err, cerr)
			}
		}
	})
}

const benchTree = 100_000

// memoryDir is a directory in memory where the machine has one: a tree of 200,000
// files takes minutes to make and to remove on a disk that others use, and look-ups
// are answered from memory in any case.
func memoryDir(b *testing.B) string {
	b.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "rollout-bench")
	if err != nil {
		return b.TempDir()
	}
	b.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			b.Error(err)
		}
	})
	return dir
}

// growTree fills a directory with small objects, without a sync.
func growTree(b *testing.B, root string) []core.ContentID {
	b.Helper()
	ids := make([]core.ContentID, benchTree)
	for i := range ids {
		data := binary.LittleEndian.AppendUint64([]byte("tree"), uint64(i))
		id := core.SumContent(data)
		ids[i] = id
		name := filepath.Join(root, blobName(id))
		m := objectMeta{size: int64(len(data)), createdMS: 1767225600000}
		err := os.WriteFile(name, data, 0o600)
		if errors.Is(err, fs.ErrNotExist) {
			err = errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, data, 0o600))
		}
		if err := errors.Join(err, os.WriteFile(name+metaSuffix, m.encode(id), 0o600)); err != nil {
			b.Fatal(err)
		}
	}
	return ids
}

// BenchmarkObjectTree looks objects up in a tree of 100,000. One operation is one
// look-up of each kind; the kinds take turns in slices, so that noise hits them all.
func BenchmarkObjectTree(b *testing.B) {
	root := memoryDir(b)
	o := benchObjects(b, root)
	ids := growTree(b, root)
	kinds := []struct {
		unit string
		do   func(core.ContentID) error
	}{
		{"exists-ns", func(id core.ContentID) error {
			there, err := o.Exists(b.Context(), id)
			if err == nil && !there {
				err = fs.ErrNotExist
			}
			return err
		}},
		{"os-stat-ns", func(id core.ContentID) error {
			_, err := os.Stat(filepath.Join(root, blobName(id)))
			return err
		}},
		{"stat-ns", func(id core.ContentID) error {
			_, err := o.Stat(b.Context(), id)
			return err
		}},
		{"hand-stat-ns", func(id core.ContentID) error { return handStat(filepath.Join(root, blobName(id))) }},
	}
	took := make([]time.Duration, len(kinds))
	b.ResetTimer()
	const slice = 1000
	for from := 0; from < b.N; from += slice {
		to := min(from+slice, b.N)
		for n := from; n < to; n++ { // whoever is first would pay for the others' caches
			if err := handStat(filepath.Join(root, blobName(ids[n*7919%benchTree]))); err != nil {
				b.Fatal(err)
			}
		}
		for k, kind := range kinds {
			began := time.Now()
			for n := from; n < to; n++ {
				if err := kind.do(ids[n*7919%benchTree]); err != nil {
					b.Fatal(err)
				}
			}
			took[k] += time.Since(began)
		}
	}
	b.StopTimer()
	for k, kind := range kinds {
		b.ReportMetric(float64(took[k].Nanoseconds())/float64(b.N), kind.unit)
	}
}

// handStat describes an object plainly.
func handStat(name string) error {
	info, err := os.Stat(name)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(name + metaSuffix)
	if err != nil {
		return err
	}
	var m handMeta
	if err := json.Unmarshal(b, &m); err != nil {
		return err
	}
	if m.Size != info.Size() {
		return fs.ErrInvalid
	}
	return nil
}
