package coretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func checkObjectRoundTrip(ctx context.Context, f *ObjectStoreFixture) error {
	for i, n := range []int{0, 1, 4096, 255<<10 + 7, 256 << 10, 256<<10 + 1, 3<<20 + 11} {
		b := sample(n, byte(i))
		info, err := putReader(ctx, f.Store, b, "application/x-test")
		if err != nil {
			return fmt.Errorf("put %d bytes: %w", n, err)
		}
		got, err := f.Store.Stat(ctx, info.ID)
		if err != nil {
			return err
		}
		if got != info || got.Size != int64(n) || got.ContentType != "application/x-test" {
			return fmt.Errorf("put said %+v, stat says %+v", info, got)
		}
		if err := wantBytes(ctx, f.Store, info.ID, b); err != nil {
			return err
		}
		r, err := f.Store.Get(ctx, info.ID)
		if err != nil {
			return err
		}
		if err := r.Close(); err != nil {
			return err
		}
		if r.Info() != info {
			return fmt.Errorf("the reader says %+v, put said %+v", r.Info(), info)
		}
	}
	return nil
}

func checkObjectID(ctx context.Context, f *ObjectStoreFixture) error {
	before := time.Now().Add(-time.Second)
	b := sample(1000, 1)
	info, err := core.PutBlob(ctx, f.Store, b, "")
	if err != nil {
		return err
	}
	if info.ID != core.SumContent(b) {
		return fmt.Errorf("put returned %s for bytes whose hash is %s", info.ID, core.SumContent(b))
	}
	if info.CreatedAt.Before(before) || info.CreatedAt.After(time.Now().Add(time.Second)) || info.CreatedAt.Nanosecond()%1e6 != 0 {
		return fmt.Errorf("created at %v, which is not now to the millisecond", info.CreatedAt)
	}
	return nil
}

func checkObjectReopen(ctx context.Context, f *ObjectStoreFixture) error {
	small, large := sample(10, 1), sample(1<<20, 2)
	a, err := core.PutBlob(ctx, f.Store, small, "a/b")
	if err != nil {
		return err
	}
	b, err := putReader(ctx, f.Store, large, "")
	if err != nil {
		return err
	}
	if err := f.Reopen(); err != nil {
		return err
	}
	got, err := f.Store.Stat(ctx, a.ID)
	if err != nil || got != a {
		return fmt.Errorf("after the restart stat says %+v, %v, put said %+v", got, err, a)
	}
	return first(wantBytes(ctx, f.Store, a.ID, small), wantBytes(ctx, f.Store, b.ID, large))
}

func checkObjectEqual(ctx context.Context, f *ObjectStoreFixture) error {
	for i, n := range []int{100, 1 << 20} {
		b := sample(n, byte(i))
		one, err := putReader(ctx, f.Store, b, "first")
		if err != nil {
			return err
		}
		two, err := putReader(ctx, f.Store, b, "second")
		if err != nil {
			return err
		}
		many, err := core.PutBlob(ctx, f.Store, b, "third")
		if err != nil {
			return err
		}
		if two != one || many != one {
			return fmt.Errorf("the first put said %+v, later ones %+v and %+v", one, two, many)
		}
	}
	ids, err := listIDs(ctx, f.Store, core.ContentID{})
	if err == nil && len(ids) != 2 {
		err = fmt.Errorf("%d objects are listed, want 2", len(ids))
	}
	return err
}

// failing yields b and then err.
type failing struct {
	b   []byte
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	if len(f.b) == 0 {
		return 0, f.err
	}
	n := copy(p, f.b)
	f.b = f.b[n:]
	return n, nil
}

func checkObjectReaderError(ctx context.Context, f *ObjectStoreFixture) error {
	for _, n := range []int{0, 100, 1 << 20} {
		_, err := f.Store.Put(ctx, &failing{sample(n, 1), core.Errorf("read", core.CodeThrottled, "slow down")}, core.PutOptions{})
		if err := wantCode(err, core.CodeThrottled, fmt.Sprintf("a reader that fails after %d bytes", n)); err != nil {
			return err
		}
		if _, err := f.Store.Put(ctx, &failing{sample(n, 1), io.ErrUnexpectedEOF}, core.PutOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("a reader that ends unexpectedly after %d bytes: got %v", n, err)
		}
	}
	return wantEmpty(ctx, f.Store)
}

func checkObjectExpect(ctx context.Context, f *ObjectStoreFixture) error {
	for _, n := range []int{10, 1 << 20} {
		b, other := sample(n, 1), core.SumContent([]byte("other"))
		_, err := f.Store.Put(ctx, bytes.NewReader(b), core.PutOptions{Expect: &other})
		if err := first(wantCode(err, core.CodeCorrupt, "unexpected bytes"), wantEmpty(ctx, f.Store)); err != nil {
			return err
		}
		id := core.SumContent(b)
		if _, err := f.Store.Put(ctx, bytes.NewReader(b), core.PutOptions{Expect: &id}); err != nil {
			return err
		}
		if err := first(wantBytes(ctx, f.Store, id, b), f.Store.Delete(ctx, id)); err != nil {
			return err
		}
	}
	return nil
}

func checkObjectSizeHint(ctx context.Context, f *ObjectStoreFixture) error {
	for i, size := range []int64{-1, 0, 1, 500, 5000} {
		b := sample(1000, byte(i))
		info, err := f.Store.Put(ctx, bytes.NewReader(b), core.PutOptions{Size: size})
		if err != nil {
			return fmt.Errorf("size hint %d: %w", size, err)
		}
		if err := wantBytes(ctx, f.Store, info.ID, b); err != nil {
			return err
		}
	}
	return nil
}

func checkObjectContentType(ctx context.Context, f *ObjectStoreFixture) error {
	for _, ct := range []string{"a\nb", "\x00", "é", "\x7f", string(bytes.Repeat([]byte("a"), 256))} {
		_, one := putReader(ctx, f.Store, []byte("x"), ct)
		_, many := core.PutBlob(ctx, f.Store, []byte("x"), ct)
		if err := first(wantCode(one, core.CodeInvalidArgument, "put"), wantCode(many, core.CodeInvalidArgument, "put many")); err != nil {
			return fmt.Errorf("content type %q: %w", ct, err)
		}
	}
	for i, ct := range []string{"", `text/plain; charset="a\b"`, string(bytes.Repeat([]byte(`"`), 255))} {
		info, err := core.PutBlob(ctx, f.Store, sample(10, byte(i)), ct)
		if err != nil {
			return err
		}
		if got, err := f.Store.Stat(ctx, info.ID); err != nil || got.ContentType != ct {
			return fmt.Errorf("content type %q came back as %q, %v", ct, got.ContentType, err)
		}
	}
	return nil
}

func checkObjectPutMany(ctx context.Context, f *ObjectStoreFixture) error {
	blobs := make([]core.Blob, 200)
	for i := range blobs {
		blobs[i] = core.Blob{Data: sample(100+i, byte(i)), ContentType: fmt.Sprint(i)}
	}
	infos, err := f.Store.PutMany(ctx, blobs)
	if err != nil {
		return err
	}
	if len(infos) != len(blobs) {
		return fmt.Errorf("%d infos for %d blobs", len(infos), len(blobs))
	}
	for i, b := range blobs {
		if infos[i].ID != core.SumContent(b.Data) || infos[i].ContentType != b.ContentType || infos[i].Size != int64(len(b.Data)) {
			return fmt.Errorf("blob %d: %+v", i, infos[i])
		}
		if err := wantBytes(ctx, f.Store, infos[i].ID, b.Data); err != nil {
			return err
		}
	}
	none, err := f.Store.PutMany(ctx, nil)
	if err != nil || len(none) != 0 {
		return fmt.Errorf("no blobs: %d infos, %v", len(none), err)
	}
	return nil
}

func checkObjectPutManyEqual(ctx context.Context, f *ObjectStoreFixture) error {
	a, b := core.Blob{Data: []byte("a"), ContentType: "1"}, core.Blob{Data: []byte("b"), ContentType: "2"}
	infos, err := f.Store.PutMany(ctx, []core.Blob{a, b, a, {Data: []byte("a"), ContentType: "later"}})
	if err != nil {
		return err
	}
	if len(infos) != 4 || infos[0] != infos[2] || infos[0] != infos[3] || infos[0] == infos[1] || infos[0].ContentType != "1" {
		return fmt.Errorf("infos %+v", infos)
	}
	ids, err := listIDs(ctx, f.Store, core.ContentID{})
	if err == nil && len(ids) != 2 {
		err = fmt.Errorf("%d objects are listed, want 2", len(ids))
	}
	return err
}
