package coretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func checkObjectAbsent(ctx context.Context, f *ObjectStoreFixture) error {
	if _, err := core.PutBlob(ctx, f.Store, []byte("there"), ""); err != nil {
		return err
	}
	for _, id := range []core.ContentID{{}, core.SumContent([]byte("absent"))} {
		_, get := f.Store.Get(ctx, id)
		_, rng := f.Store.GetRange(ctx, id, 0, -1)
		_, stat := f.Store.Stat(ctx, id)
		_, blob := core.ReadBlob(ctx, f.Store, id, 10)
		for what, err := range map[string]error{"get": get, "get range": rng, "stat": stat, "read blob": blob} {
			if err := wantCode(err, core.CodeNotFound, what); err != nil {
				return err
			}
		}
		if there, err := f.Store.Exists(ctx, id); there || err != nil {
			return fmt.Errorf("exists: %v, %v", there, err)
		}
	}
	return nil
}

func checkObjectRange(ctx context.Context, f *ObjectStoreFixture) error {
	b := sample(1000, 1)
	info, err := core.PutBlob(ctx, f.Store, b, "")
	if err != nil {
		return err
	}
	for _, c := range []struct{ off, n, from, to int64 }{
		{0, -1, 0, 1000}, {0, 1000, 0, 1000}, {10, 5, 10, 15}, {990, 100, 990, 1000}, {1000, 1, 1000, 1000},
		{5000, -1, 1000, 1000}, {5, 0, 5, 5}, {1, 1<<63 - 1, 1, 1000}, {1<<63 - 1, 1<<63 - 1, 1000, 1000},
	} {
		r, err := f.Store.GetRange(ctx, info.ID, c.off, c.n)
		if err != nil {
			return err
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return err
		}
		if !bytes.Equal(got, b[c.from:c.to]) {
			return fmt.Errorf("range %d+%d gave %d bytes, want [%d:%d]", c.off, c.n, len(got), c.from, c.to)
		}
	}
	_, err = f.Store.GetRange(ctx, info.ID, -1, 5)
	return wantCode(err, core.CodeInvalidArgument, "a negative offset")
}

func checkObjectExists(ctx context.Context, f *ObjectStoreFixture) error {
	info, err := core.PutBlob(ctx, f.Store, []byte("x"), "")
	if err != nil {
		return err
	}
	if there, err := f.Store.Exists(ctx, info.ID); !there || err != nil {
		return fmt.Errorf("after put: %v, %v", there, err)
	}
	if err := f.Store.Delete(ctx, info.ID); err != nil {
		return err
	}
	if there, err := f.Store.Exists(ctx, info.ID); there || err != nil {
		return fmt.Errorf("after delete: %v, %v", there, err)
	}
	_, err = f.Store.Stat(ctx, info.ID)
	return wantCode(err, core.CodeNotFound, "stat after delete")
}

func checkObjectDeleteAbsent(ctx context.Context, f *ObjectStoreFixture) error {
	infos, err := f.Store.PutMany(ctx, []core.Blob{{Data: []byte("a")}, {Data: []byte("b")}})
	if err != nil {
		return err
	}
	gone := core.SumContent([]byte("gone"))
	return first(f.Store.Delete(ctx), f.Store.Delete(ctx, gone), f.Store.Delete(ctx, infos[0].ID, gone, infos[1].ID, infos[0].ID), wantEmpty(ctx, f.Store))
}

func checkObjectPutAgain(ctx context.Context, f *ObjectStoreFixture) error {
	for i, n := range []int{10, 1 << 20} {
		b := sample(n, byte(i))
		info, err := putReader(ctx, f.Store, b, "old")
		if err != nil {
			return err
		}
		if err := f.Store.Delete(ctx, info.ID); err != nil {
			return err
		}
		again, err := putReader(ctx, f.Store, b, "new")
		if err != nil {
			return err
		}
		if again.ID != info.ID || again.ContentType != "new" {
			return fmt.Errorf("put again: %+v", again)
		}
		if err := wantBytes(ctx, f.Store, again.ID, b); err != nil {
			return err
		}
	}
	return nil
}

func checkObjectList(ctx context.Context, f *ObjectStoreFixture) error {
	blobs := make([]core.Blob, 300)
	want := map[core.ContentID]int64{}
	for i := range blobs {
		blobs[i] = core.Blob{Data: sample(i+1, byte(i)), ContentType: "x"}
		want[core.SumContent(blobs[i].Data)] = int64(i + 1)
	}
	if _, err := f.Store.PutMany(ctx, blobs); err != nil {
		return err
	}
	var all []core.ContentID
	for info, err := range f.Store.List(ctx, core.ContentID{}) {
		if err != nil {
			return err
		}
		if n := len(all); n > 0 && bytes.Compare(all[n-1][:], info.ID[:]) >= 0 {
			return fmt.Errorf("%s came after %s", info.ID, all[n-1])
		}
		if want[info.ID] != info.Size || info.ContentType != "x" {
			return fmt.Errorf("listed %+v, want %d bytes", info, want[info.ID])
		}
		all = append(all, info.ID)
	}
	if len(all) != len(want) {
		return fmt.Errorf("%d objects listed, want %d", len(all), len(want))
	}
	for _, i := range []int{0, 1, 150, 298, 299} {
		rest, err := listIDs(ctx, f.Store, all[i])
		if err != nil {
			return err
		}
		if len(rest) != len(all)-i-1 || len(rest) > 0 && rest[0] != all[i+1] {
			return fmt.Errorf("behind the %d. id %d objects are listed, want %d", i, len(rest), len(all)-i-1)
		}
	}
	return nil
}

func checkObjectListBreak(ctx context.Context, f *ObjectStoreFixture) error {
	if _, err := f.Store.PutMany(ctx, []core.Blob{{Data: []byte("a")}, {Data: []byte("b")}, {Data: []byte("c")}}); err != nil {
		return err
	}
	n := 0
	for info, err := range f.Store.List(ctx, core.ContentID{}) {
		if err := first(err, f.Store.Delete(ctx, info.ID)); err != nil {
			return err
		}
		if n++; n == 2 {
			break
		}
	}
	ids, err := listIDs(ctx, f.Store, core.ContentID{})
	if err == nil && len(ids) != 1 {
		err = fmt.Errorf("%d objects left, want 1", len(ids))
	}
	return err
}
