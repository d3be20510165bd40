package cloudlocal

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func mustPut(t *testing.T, o *Objects, b []byte) core.ObjectInfo {
	t.Helper()
	info, err := o.Put(t.Context(), bytes.NewReader(b), core.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func wantStored(t *testing.T, o *Objects, id core.ContentID, want []byte) {
	t.Helper()
	got, err := core.ReadBlob(t.Context(), o, id, 1<<30)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("object %s: %d bytes, %v, want %d", id, len(got), err, len(want))
	}
}

func wantCode(t *testing.T, what string, err error, code core.Code) {
	t.Helper()
	if !core.IsCode(err, code) {
		t.Errorf("%s: got %v (%s), want %s", what, err, core.CodeOf(err), code)
	}
}

func TestObjectFilesAndModes(t *testing.T) {
	root := filepath.Join(t.TempDir(), "deep", "store")
	old := syscall.Umask(0)
	o := openAt(t, root)
	info, err := core.PutBlob(t.Context(), o, []byte("hello"), "text/plain")
	mustPut(t, o, noise(3*defaultBlock, 1))
	syscall.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	h := info.ID.String()
	var meta struct {
		Size        int64  `json:"size"`
		ContentType string `json:"content_type"`
		CreatedAtMS int64  `json:"created_at_ms"`
	}
	b, err := os.ReadFile(filepath.Join(root, h[:2], h[2:4], h+".meta.json"))
	if err == nil {
		err = json.Unmarshal(b, &meta)
	}
	if err != nil || meta.Size != 5 || meta.ContentType != "text/plain" || meta.CreatedAtMS != info.CreatedAt.UnixMilli() {
		t.Errorf("meta %s: %v", b, err)
	}
	err = filepath.WalkDir(filepath.Dir(root), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		if want := map[bool]fs.FileMode{true: 0o700, false: 0o600}[e.IsDir()]; st.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, st.Mode().Perm(), want)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestOriginalDirectory opens a directory as the Rust original leaves it: streams
// have no meta, temporaries lie in two places.
func TestOriginalDirectory(t *testing.T) {
	root := t.TempDir()
	write := func(name string, b []byte) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	withMeta, stream, dead := []byte("with meta"), []byte("a stream"), []byte("dead")
	a, b, d := core.SumContent(withMeta), core.SumContent(stream), core.SumContent(dead)
	write(blobName(a), withMeta)
	write(metaName(a), []byte(`{"size":9,"content_type":"text/plain","created_at_ms":1700000000000}`))
	write(blobName(b), stream)
	write(blobName(d)+".tmp", dead[:2])
	write("pending/0192-stream", []byte("half"))
	write("notes.txt", []byte("not ours"))
	o := openAt(t, root)
	wantStored(t, o, a, withMeta)
	wantStored(t, o, b, stream)
	if info, err := o.Stat(t.Context(), a); err != nil || info.ContentType != "text/plain" || info.CreatedAt.UnixMilli() != 1700000000000 {
		t.Errorf("%+v, %v", info, err)
	}
	if info, err := o.Stat(t.Context(), b); err != nil || info.Size != 8 || info.CreatedAt.IsZero() {
		t.Errorf("%+v, %v", info, err)
	}
	if rs, err := o.Verify(t.Context(), nil, false); err != nil || len(rs) > 0 {
		t.Errorf("verify: %v, %v", rs, err)
	}
	info, err := o.Put(t.Context(), bytes.NewReader(stream), core.PutOptions{ContentType: "a/b"})
	if err != nil || info.ContentType != "a/b" {
		t.Errorf("the first put of a stream without a meta: %+v, %v", info, err)
	}
	past := time.Now().Add(-time.Hour)
	for _, name := range []string{blobName(d) + ".tmp", "pending/0192-stream"} {
		if err := os.Chtimes(filepath.Join(root, name), past, past); err != nil {
			t.Fatal(err)
		}
	}
	got, err := o.GC(t.Context(), func(core.ContentID) (bool, error) { return true, nil }, time.Minute)
	if err != nil || got != (core.GCResult{Kept: 2}) {
		t.Errorf("gc: %+v, %v", got, err)
	}
	for name, want := range map[string]bool{blobName(d) + ".tmp": false, "pending/0192-stream": false, "notes.txt": true} {
		if _, err := os.Stat(filepath.Join(root, name)); (err == nil) != want {
			t.Errorf("%s: %v, want there: %v", name, err, want)
		}
	}
}

// TestTwoStoresOnOneRoot lets two stores work on one directory, as two processes of
// a machine do: they put equal bytes, delete and collect at the same time.
func TestTwoStoresOnOneRoot(t *testing.T) {
	root := t.TempDir()
	stores := []*Objects{openAt(t, root), openAt(t, root)}
	var wg sync.WaitGroup
	for w := range 8 {
		o := stores[w%2]
		wg.Go(func() {
			for i := range 50 {
				b := noise(500, uint64(i%5))
				info, err := core.PutBlob(t.Context(), o, b, "")
				if err != nil {
					t.Error(err)
					return
				}
				switch w {
				case 6:
					err = o.Delete(t.Context(), info.ID)
				case 7:
					_, err = o.GC(t.Context(), func(core.ContentID) (bool, error) { return false, nil }, 0)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for i := range 5 {
		b := noise(500, uint64(i))
		wantStored(t, stores[0], mustPut(t, stores[1], b).ID, b)
	}
	if rs, err := stores[0].Verify(t.Context(), nil, false); err != nil || len(rs) > 0 {
		t.Errorf("verify: %v, %v", rs, err)
	}
}

func TestSweepSparesLivingSessions(t *testing.T) {
	root := t.TempDir()
	living := openAt(t, root)
	r, w := io.Pipe()
	put := make(chan error, 1)
	b := noise(3*defaultBlock, 1)
	go func() {
		_, err := living.Put(context.Background(), r, core.PutOptions{})
		put <- err
	}()
	if _, err := w.Write(b[:2*defaultBlock]); err != nil {
		t.Fatal(err)
	}
	dead := filepath.Join(root, tmpDir, "DEAD")
	if err := errors.Join(os.Mkdir(dead, 0o700), os.WriteFile(filepath.Join(dead, "1"), b, 0o600)); err != nil {
		t.Fatal(err)
	}
	openAt(t, root)
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the dead session is still there: %v", err)
	}
	if _, err := w.Write(b[2*defaultBlock:]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Close(), <-put); err != nil {
		t.Fatal(err)
	}
	wantStored(t, living, core.SumContent(b), b)
}

// TestPutHealsDamage puts bytes whose stored copy is damaged.
func TestPutHealsDamage(t *testing.T) {
	for name, harm := range map[string]func(blob, meta string) error{
		"flipped bit":    func(blob, _ string) error { return flip(blob, 100) },
		"truncated":      func(blob, _ string) error { return os.Truncate(blob, 10) },
		"grown":          func(blob, _ string) error { return os.Truncate(blob, 4<<20) },
		"empty":          func(blob, _ string) error { return os.Truncate(blob, 0) },
		"meta lost":      func(_, meta string) error { return os.Remove(meta) },
		"meta empty":     func(_, meta string) error { return os.Truncate(meta, 0) },
		"meta flipped":   func(_, meta string) error { return flip(meta, 90) },
		"link elsewhere": func(blob, _ string) error { return errors.Join(os.Remove(blob), os.Symlink("/etc/passwd", blob)) },
		"both lost":      func(blob, meta string) error { return errors.Join(os.Remove(blob), os.Remove(meta)) },
	} {
		for _, n := range []int{1000, 2*defaultBlock + 5} {
			root := t.TempDir()
			o := openAt(t, root)
			b := noise(n, 1)
			id := mustPut(t, o, b).ID
			if err := harm(filepath.Join(root, blobName(id)), filepath.Join(root, metaName(id))); err != nil {
				t.Fatal(err)
			}
			mustPut(t, o, b)
			wantStored(t, o, id, b)
			if rs, err := o.Verify(t.Context(), nil, false); err != nil || len(rs) > 0 {
				t.Errorf("%s, %d bytes: verify: %v, %v", name, n, rs, err)
			}
		}
	}
}

func TestQuota(t *testing.T) {
	root := t.TempDir()
	first := openAt(t, root)
	mustPut(t, first, noise(400, 1))
	o, err := OpenObjects(t.Context(), ObjectsConfig{Root: root, Quota: 1000, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b := noise(500, 2)
	id := mustPut(t, o, b).ID
	mustPut(t, o, b) // is there already
	_, err = o.Put(t.Context(), bytes.NewReader(noise(101, 3)), core.PutOptions{})
	wantCode(t, "one byte over the quota", err, core.CodeExhausted)
	_, err = o.Put(t.Context(), bytes.NewReader(noise(10, 4)), core.PutOptions{Size: 1 << 40})
	wantCode(t, "a size over the quota", err, core.CodeExhausted)
	_, err = o.PutMany(t.Context(), []core.Blob{{Data: noise(60, 5)}, {Data: noise(60, 6)}})
	wantCode(t, "a batch over the quota", err, core.CodeExhausted)
	mustPut(t, o, noise(100, 7))
	if err := o.Delete(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	mustPut(t, o, noise(500, 8))
	_, err = o.Put(t.Context(), bytes.NewReader(noise(1<<20, 9)), core.PutOptions{})
	wantCode(t, "a stream over the quota", err, core.CodeExhausted)
	if n := countFiles(t, filepath.Join(root, tmpDir)); n > 0 {
		t.Errorf("%d temporaries are left", n)
	}
}

func countFiles(t *testing.T, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			n++
		}
		return ignoreAbsent(err)
	})
	if err != nil {
		t.Error(err)
	}
	return n
}

func TestFreeFloorAndFullDisk(t *testing.T) {
	mem := newMemFS()
	mem.free = 10_000
	o, err := OpenObjects(t.Context(), ObjectsConfig{FreeFloor: 9_000, fs: mem, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	mustPut(t, o, noise(1000, 1))
	_, err = core.PutBlob(t.Context(), o, noise(1001, 2), "")
	wantCode(t, "a put below the floor", err, core.CodeExhausted)
	full := newMemFS()
	full.full = 50_000
	o = openOn(t, full)
	kept := noise(20_000, 3)
	id := mustPut(t, o, kept).ID
	for i, n := range []int{30_000, 29_900} {
		_, err = o.Put(t.Context(), bytes.NewReader(noise(n, uint64(i))), core.PutOptions{})
		wantCode(t, "a put on a full disk", err, core.CodeExhausted)
	}
	if n := full.temporaries(); n > 0 {
		t.Errorf("%d temporaries are left", n)
	}
	wantStored(t, o, id, kept)
	full.full = 1 << 30
	mustPut(t, o, noise(30_000, 5))
}

// TestSyncFailureStopsWriting shows that reads go on after a failed sync, that
// nothing more is written, and that a store opened anew writes again.
func TestSyncFailureStopsWriting(t *testing.T) {
	mem := newMemFS()
	ff := &faultFS{fileSystem: mem}
	o := openOn(t, ff)
	b := noise(100, 1)
	id := mustPut(t, o, b).ID
	for n := 1; o.broken.Load() == nil; n++ {
		ff.arm(n, syscall.EIO, false)
		if _, err := core.PutBlob(t.Context(), o, noise(100, uint64(100+n)), ""); err == nil {
			t.Fatal("the put passed with every call failing in turn")
		}
	}
	ff.arm(0, nil, false)
	_, err := core.PutBlob(t.Context(), o, noise(100, 2), "")
	wantCode(t, "a put after a failed sync", err, core.CodeBroken)
	wantCode(t, "a delete after a failed sync", o.Delete(t.Context(), id), core.CodeBroken)
	if !errors.Is(err, syscall.EIO) {
		t.Errorf("%v does not name the cause", err)
	}
	wantStored(t, o, id, b)
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	mustPut(t, openOn(t, mem), noise(100, 2))
}

// TestPutMakesOldObjectsYoung shows that a put of bytes that are there already saves
// them from a collection whose mark is older.
func TestPutMakesOldObjectsYoung(t *testing.T) {
	root := t.TempDir()
	o := openAt(t, root)
	b := noise(100, 1)
	id := mustPut(t, o, b).ID
	past := time.Now().Add(-48 * time.Hour)
	age := func() {
		if err := os.Chtimes(filepath.Join(root, blobName(id)), past, past); err != nil {
			t.Fatal(err)
		}
	}
	dead := func(core.ContentID) (bool, error) { return false, nil }
	age()
	mustPut(t, o, b)
	if got, err := o.GC(t.Context(), dead, -1); err != nil || got.Kept != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	age()
	// The put comes between the look at the object's age and its removal.
	got, err := o.GC(t.Context(), func(core.ContentID) (bool, error) {
		mustPut(t, o, b)
		return false, nil
	}, -1)
	if err != nil || got.Kept != 1 {
		t.Errorf("a put during the collection: %+v, %v", got, err)
	}
	wantStored(t, o, id, b)
	age()
	if got, err := o.GC(t.Context(), dead, -1); err != nil || got != (core.GCResult{Removed: 1, Freed: 100}) {
		t.Errorf("%+v, %v", got, err)
	}
	if n := countFiles(t, root); n > 0 {
		t.Errorf("%d files are left", n)
	}
}

func TestOrphanMetas(t *testing.T) {
	root := t.TempDir()
	o := openAt(t, root)
	b := noise(100, 1)
	id := mustPut(t, o, b).ID
	if err := os.Remove(filepath.Join(root, blobName(id))); err != nil {
		t.Fatal(err)
	}
	_, err := o.Stat(t.Context(), id)
	wantCode(t, "stat of a meta without bytes", err, core.CodeNotFound)
	if rs, err := o.Verify(t.Context(), nil, false); err != nil || len(rs) > 0 {
		t.Errorf("verify: %v, %v", rs, err)
	}
	info, err := o.Put(t.Context(), bytes.NewReader(b), core.PutOptions{ContentType: "new"})
	if err != nil || info.ContentType != "new" {
		t.Errorf("%+v, %v", info, err)
	}
	if err := os.Remove(filepath.Join(root, blobName(id))); err != nil {
		t.Fatal(err)
	}
	if _, err := o.GC(t.Context(), func(core.ContentID) (bool, error) { return true, nil }, 0); err != nil {
		t.Error(err)
	}
	if n := countFiles(t, root); n > 0 {
		t.Errorf("%d files are left", n)
	}
}

type panicking struct{ n int }

func (p *panicking) Read(b []byte) (int, error) {
	if p.n -= len(b); p.n < 0 {
		panic("the reader is broken")
	}
	return len(b), nil
}

func TestReaderThatPanics(t *testing.T) {
	root := t.TempDir()
	o := openAt(t, root)
	for _, n := range []int{0, 5 * defaultBlock} {
		func() {
			defer func() {
				if recover() == nil {
					t.Error("the panic was swallowed")
				}
			}()
			_, err := o.Put(t.Context(), &panicking{n}, core.PutOptions{})
			t.Error("put returned", err)
		}()
	}
	if n := countFiles(t, filepath.Join(root, tmpDir)); n > 0 {
		t.Errorf("%d temporaries are left", n)
	}
	mustPut(t, o, noise(10, 1))
}

func TestObjectsConfigViolations(t *testing.T) {
	_, err := OpenObjects(t.Context(), ObjectsConfig{Quota: -1, FreeFloor: -1, GCGrace: -1})
	wantCode(t, "open", err, core.CodeConfigInvalid)
	for _, key := range []string{"root:", "quota:", "free_floor:", "gc_grace:"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("%v does not name %s", err, key)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenObjects(t.Context(), ObjectsConfig{Root: file}); err == nil {
		t.Error("a file was opened as a store")
	}
}
