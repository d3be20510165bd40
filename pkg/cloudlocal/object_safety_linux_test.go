package cloudlocal

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// outside is a directory that nothing may open. The kernel reports whoever does.
type outside struct {
	t   *testing.T
	dir string
	fd  int
}

func newOutside(t *testing.T) *outside {
	t.Helper()
	o := &outside{t: t, dir: t.TempDir()}
	for _, dir := range []string{"cd", "x"} {
		if err := os.Mkdir(filepath.Join(o.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(o.dir, "secret"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	if o.fd, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Close(o.fd); err != nil {
			t.Error(err)
		}
	})
	for _, name := range []string{".", "cd", "x", "secret"} {
		const any = unix.IN_OPEN | unix.IN_ACCESS | unix.IN_MODIFY | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVE | unix.IN_ATTRIB
		if _, err := unix.InotifyAddWatch(o.fd, filepath.Join(o.dir, name), any); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

// untouched reports every event since the last call as an error.
func (o *outside) untouched(what string) {
	o.t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Read(o.fd, buf)
	if !errors.Is(err, unix.EAGAIN) {
		o.t.Errorf("%s: somebody touched what lies outside the root (%d bytes of events, %v)", what, n, err)
	}
}

// everyCall makes every call that takes an id and ignores what it says: only where
// it goes is of interest here.
func everyCall(t *testing.T, o *Objects, b []byte) {
	ctx, id := t.Context(), core.SumContent(b)
	if r, err := o.Get(ctx, id); err == nil {
		r.Close()
	}
	if r, err := o.GetRange(ctx, id, 0, -1); err == nil {
		r.Close()
	}
	o.Stat(ctx, id)
	o.Exists(ctx, id)
	o.Verify(ctx, []core.ContentID{id}, true)
	o.Put(ctx, bytes.NewReader(b), core.PutOptions{})
	o.Verify(ctx, nil, true)
	o.GC(ctx, func(core.ContentID) (bool, error) { return false, nil }, 0)
	for range o.List(ctx, core.ContentID{}) {
	}
	o.Delete(ctx, id)
}

// TestS5ObjectsStayInside plants links out of the root under every name that the
// store uses.
func TestS5ObjectsStayInside(t *testing.T) {
	away := newOutside(t)
	b := noise(100, 1)
	id := core.SumContent(b)
	h := id.String()
	for _, name := range []string{h[:2], h[:2] + "/" + h[2:4], blobName(id), metaName(id), tmpDir, quarantineDir, foreignDir} {
		for _, target := range []string{away.dir, filepath.Join(away.dir, "secret"), filepath.Join(away.dir, "absent"), "../../../../../../../.." + away.dir} {
			root := t.TempDir()
			o := openAt(t, root)
			mustPut(t, o, b)
			link := filepath.Join(root, name)
			if err := errors.Join(os.RemoveAll(link), os.MkdirAll(filepath.Dir(link), 0o700), os.Symlink(target, link)); err != nil {
				t.Fatal(err)
			}
			everyCall(t, o, b)
			other, err := OpenObjects(t.Context(), ObjectsConfig{Root: root, Logger: quiet()})
			if err != nil {
				t.Fatal(err)
			}
			everyCall(t, other, b)
			everyCall(t, openPlainAt(t, root), b)
			if err := errors.Join(other.Close(), ignoreAny(os.Remove(link))); err != nil {
				t.Error(err)
			}
			away.untouched(name + " -> " + target)
		}
	}
	for _, s := range hostileIDs() {
		if _, err := core.ParseContentID(s); !core.IsCode(err, core.CodeInvalidArgument) {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// ignoreAny drops an error that says nothing here: a put may have replaced a link.
func ignoreAny(error) error { return nil }

// TestS5ObjectsSwappedShard exchanges a shard for a link while the store works in it.
func TestS5ObjectsSwappedShard(t *testing.T) {
	away := newOutside(t)
	root := t.TempDir()
	o := openAt(t, root)
	b := noise(100, 1)
	id := mustPut(t, o, b).ID
	shard := filepath.Join(root, id.String()[:2])
	if err := os.Symlink(away.dir, filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if err := unix.Renameat2(unix.AT_FDCWD, shard, unix.AT_FDCWD, filepath.Join(root, "link"), unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range chaosCount(t, 100) {
		everyCall(t, o, b)
	}
	cancel()
	wg.Wait()
	away.untouched("a shard that is exchanged all the time")
}

// TestObjectsRefuseDevices plants a pipe where an object should be: opening it must
// not hold the caller.
func TestObjectsRefuseDevices(t *testing.T) {
	root := t.TempDir()
	o := openAt(t, root)
	b := noise(100, 1)
	id := mustPut(t, o, b).ID
	name := filepath.Join(root, blobName(id))
	if err := errors.Join(os.Remove(name), unix.Mkfifo(name, 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err := o.Get(t.Context(), id)
	wantCode(t, "get of a pipe", err, core.CodeCorrupt)
	_, err = o.Stat(t.Context(), id)
	wantCode(t, "stat of a pipe", err, core.CodeCorrupt)
	mustPut(t, o, b)
	wantStored(t, o, id, b)
}
