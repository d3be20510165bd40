package coretest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func checkObjectVerify(ctx context.Context, f *ObjectStoreFixture) error {
	infos, err := f.Store.PutMany(ctx, []core.Blob{{Data: sample(10, 1)}, {Data: sample(1<<20, 2)}})
	if err != nil {
		return err
	}
	all, err := f.Store.Verify(ctx, nil, false)
	if err != nil || len(all) != 0 {
		return fmt.Errorf("all: %v, %v", all, err)
	}
	gone := core.SumContent([]byte("gone"))
	named, err := f.Store.Verify(ctx, []core.ContentID{infos[0].ID, gone}, true)
	if err != nil || len(named) != 1 || named[0].ID != gone || named[0].Quarantined {
		return fmt.Errorf("named: %+v, %v", named, err)
	}
	return wantCode(named[0].Err, core.CodeNotFound, "a missing object")
}

func checkObjectDamagedRead(ctx context.Context, f *ObjectStoreFixture) error {
	for i, n := range []int{1, 5000, 2 << 20} {
		info, err := putReader(ctx, f.Store, sample(n, byte(i)), "")
		if err != nil {
			return err
		}
		if err := f.Damage(info.ID); err != nil {
			return err
		}
		_, err = core.ReadBlob(ctx, f.Store, info.ID, 10<<20)
		if err := wantCode(err, core.CodeCorrupt, fmt.Sprintf("%d bytes", n)); err != nil {
			return err
		}
		r, err := f.Store.Get(ctx, info.ID)
		if core.IsCode(err, core.CodeCorrupt) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		if err := first(wantCode(err, core.CodeCorrupt, "a copy"), r.Close()); err != nil {
			return err
		}
	}
	return nil
}

func checkObjectDamagedVerify(ctx context.Context, f *ObjectStoreFixture) error {
	infos, err := f.Store.PutMany(ctx, []core.Blob{{Data: sample(1000, 1)}, {Data: sample(1000, 2)}, {Data: sample(1000, 3)}})
	if err != nil {
		return err
	}
	bad := infos[1].ID
	if err := f.Damage(bad); err != nil {
		return err
	}
	for _, quarantine := range []bool{false, true} {
		rs, err := f.Store.Verify(ctx, nil, quarantine)
		if err != nil || len(rs) != 1 || rs[0].ID != bad || rs[0].Quarantined != quarantine || !core.IsCode(rs[0].Err, core.CodeCorrupt) {
			return fmt.Errorf("quarantine %v: %+v, %v", quarantine, rs, err)
		}
		if there, err := f.Store.Exists(ctx, bad); there == quarantine || err != nil {
			return fmt.Errorf("quarantine %v: exists says %v, %v", quarantine, there, err)
		}
	}
	rs, err := f.Store.Verify(ctx, nil, true)
	if err != nil || len(rs) != 0 {
		return fmt.Errorf("after quarantine: %+v, %v", rs, err)
	}
	return nil
}

func checkObjectQuarantinePut(ctx context.Context, f *ObjectStoreFixture) error {
	for i, n := range []int{1000, 1 << 20} {
		b := sample(n, byte(i))
		info, err := putReader(ctx, f.Store, b, "")
		if err != nil {
			return err
		}
		if err := f.Damage(info.ID); err != nil {
			return err
		}
		if _, err := f.Store.Verify(ctx, []core.ContentID{info.ID}, true); err != nil {
			return err
		}
		if _, err := putReader(ctx, f.Store, b, ""); err != nil {
			return err
		}
		if err := wantBytes(ctx, f.Store, info.ID, b); err != nil {
			return err
		}
	}
	return nil
}

func checkObjectGC(ctx context.Context, f *ObjectStoreFixture) error {
	infos, err := f.Store.PutMany(ctx, []core.Blob{{Data: sample(100, 1)}, {Data: sample(200, 2)}, {Data: sample(300, 3)}})
	if err != nil {
		return err
	}
	live := func(id core.ContentID) (bool, error) { return id == infos[1].ID, nil }
	got, err := f.Store.GC(ctx, live, 0)
	if err != nil {
		return err
	}
	if want := (core.GCResult{Kept: 1, Removed: 2, Freed: 400}); got != want {
		return fmt.Errorf("got %+v, want %+v", got, want)
	}
	ids, err := listIDs(ctx, f.Store, core.ContentID{})
	if err != nil || len(ids) != 1 || ids[0] != infos[1].ID {
		return fmt.Errorf("left: %v, %v", ids, err)
	}
	_, err = f.Store.GC(ctx, nil, 0)
	return wantCode(err, core.CodeInvalidArgument, "a collection without a mark")
}

func checkObjectGCGrace(ctx context.Context, f *ObjectStoreFixture) error {
	if _, err := core.PutBlob(ctx, f.Store, []byte("young"), ""); err != nil {
		return err
	}
	asked := 0
	got, err := f.Store.GC(ctx, func(core.ContentID) (bool, error) { asked++; return false, nil }, time.Hour)
	if err != nil || got != (core.GCResult{Kept: 1}) || asked != 0 {
		return fmt.Errorf("got %+v, %v after %d questions", got, err, asked)
	}
	return nil
}

func checkObjectGCError(ctx context.Context, f *ObjectStoreFixture) error {
	if _, err := f.Store.PutMany(ctx, []core.Blob{{Data: []byte("a")}, {Data: []byte("b")}}); err != nil {
		return err
	}
	asked := 0
	_, err := f.Store.GC(ctx, func(core.ContentID) (bool, error) {
		asked++
		return false, core.Errorf("mark", core.CodeUnavailable, "no answer")
	}, 0)
	if err := wantCode(err, core.CodeUnavailable, "the collection"); err != nil || asked != 1 {
		return fmt.Errorf("after %d questions: %w", asked, err)
	}
	ids, err := listIDs(ctx, f.Store, core.ContentID{})
	if err == nil && len(ids) != 2 {
		err = fmt.Errorf("%d objects left, want 2", len(ids))
	}
	return err
}

func checkObjectGCRace(ctx context.Context, f *ObjectStoreFixture) error {
	b := sample(100, 1)
	for range 20 {
		if _, err := core.PutBlob(ctx, f.Store, b, ""); err != nil {
			return err
		}
		var wg sync.WaitGroup
		var gcErr, putErr error
		var put core.ObjectInfo
		wg.Go(func() {
			// The mark is taken before the put, so only the put's own youth saves it.
			_, gcErr = f.Store.GC(ctx, func(core.ContentID) (bool, error) { return false, nil }, 0)
		})
		wg.Go(func() { put, putErr = core.PutBlob(ctx, f.Store, b, "") })
		wg.Wait()
		if err := first(gcErr, putErr); err != nil {
			return err
		}
		// Either the collection came last and took all of it, or the object is whole.
		switch err := wantBytes(ctx, f.Store, put.ID, b); {
		case err != nil && !core.IsCode(err, core.CodeNotFound):
			return err
		}
	}
	return nil
}

func checkObjectRace(ctx context.Context, f *ObjectStoreFixture) error {
	for i, n := range []int{4096, 600 << 10} {
		b := sample(n, byte(i))
		const writers = 16
		infos, errs := make([]core.ObjectInfo, writers), make([]error, writers)
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() { infos[w], errs[w] = putReader(ctx, f.Store, b, fmt.Sprint(w)) })
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			return err
		}
		stored, err := f.Store.Stat(ctx, core.SumContent(b))
		if err != nil {
			return err
		}
		for w, info := range infos {
			if info != stored {
				return fmt.Errorf("writer %d was told %+v, stored is %+v", w, info, stored)
			}
		}
		if err := wantBytes(ctx, f.Store, stored.ID, b); err != nil {
			return err
		}
	}
	ids, err := listIDs(ctx, f.Store, core.ContentID{})
	if err == nil && len(ids) != 2 {
		err = fmt.Errorf("%d objects are listed, want 2", len(ids))
	}
	return err
}

func checkObjectConcurrent(ctx context.Context, f *ObjectStoreFixture) error {
	const goroutines, each, distinct = 8, 40, 10
	errs := make([]error, goroutines)
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			for i := range each {
				b := sample(3000, byte((i*7+g)%distinct))
				if errs[g] = concurrentStep(ctx, f.Store, b, (i+g)%3); errs[g] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	rs, err := f.Store.Verify(ctx, nil, false)
	if err == nil && len(rs) > 0 {
		err = fmt.Errorf("damaged afterwards: %+v", rs)
	}
	return err
}

func concurrentStep(ctx context.Context, s core.ObjectStore, b []byte, what int) error {
	id := core.SumContent(b)
	switch what {
	case 0:
		_, err := putReader(ctx, s, b, "")
		return err
	case 1:
		err := wantBytes(ctx, s, id, b)
		if core.IsCode(err, core.CodeNotFound) {
			return nil
		}
		return err
	default:
		return s.Delete(ctx, id)
	}
}

func checkObjectCancel(ctx context.Context, f *ObjectStoreFixture) error {
	done, cancel := context.WithCancel(ctx)
	cancel()
	_, put := f.Store.Put(done, bytes.NewReader(sample(1<<20, 1)), core.PutOptions{})
	_, many := core.PutBlob(done, f.Store, []byte("x"), "")
	_, stat := f.Store.Stat(done, core.ContentID{})
	_, list := listIDs(done, f.Store, core.ContentID{})
	_, gc := f.Store.GC(done, func(core.ContentID) (bool, error) { return false, nil }, 0)
	for what, err := range map[string]error{"put": put, "put many": many, "stat": stat, "list": list, "gc": gc} {
		if err := wantCode(err, core.CodeCanceled, what); err != nil {
			return err
		}
	}
	during, cancel := context.WithCancel(ctx)
	defer cancel()
	_, err := f.Store.Put(during, io.MultiReader(bytes.NewReader(sample(1<<20, 1)), readerFunc(func(p []byte) (int, error) {
		cancel()
		return len(p), nil
	})), core.PutOptions{})
	return first(wantCode(err, core.CodeCanceled, "a put whose context ends while it reads"), wantEmpty(ctx, f.Store))
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func checkObjectClose(ctx context.Context, f *ObjectStoreFixture) error {
	info, err := core.PutBlob(ctx, f.Store, []byte("x"), "")
	if err != nil {
		return err
	}
	if err := first(f.Store.Close(), f.Store.Close()); err != nil {
		return err
	}
	_, put := core.PutBlob(ctx, f.Store, []byte("y"), "")
	_, get := f.Store.Get(ctx, info.ID)
	_, stat := f.Store.Stat(ctx, info.ID)
	_, exists := f.Store.Exists(ctx, info.ID)
	_, list := listIDs(ctx, f.Store, core.ContentID{})
	_, verify := f.Store.Verify(ctx, nil, false)
	for what, err := range map[string]error{"put": put, "get": get, "stat": stat, "exists": exists, "list": list,
		"delete": f.Store.Delete(ctx, info.ID), "verify": verify} {
		if err := wantCode(err, core.CodeClosed, what); err != nil {
			return err
		}
	}
	return nil
}
