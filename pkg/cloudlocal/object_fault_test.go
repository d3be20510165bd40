package cloudlocal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// script is one run of calls against a store, with what has been promised so far.
type script struct {
	o       *Objects
	promise map[core.ContentID][]byte // acknowledged puts
	maybe   map[core.ContentID][]byte // what the call that failed was to store or to delete
	removes bool                      // it was to delete
}

// noise returns n bytes that differ for each seed.
func noise(n int, seed uint64) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)}).Read(b)
	return b
}

// steps are the calls of the script, in order.
func (s *script) steps(ctx context.Context) []func() error {
	small, large := noise(900, 1), noise(5*testBlock+100, 2)
	group := []core.Blob{{Data: noise(10, 3)}, {Data: noise(20, 4)}, {Data: noise(30, 5)}}
	return []func() error{
		func() error { return s.put(ctx, small) },
		func() error { return s.put(ctx, large) },
		func() error {
			for _, b := range group {
				s.maybe[core.SumContent(b.Data)] = b.Data
			}
			if _, err := s.o.PutMany(ctx, group); err != nil {
				return err
			}
			for _, b := range group {
				s.promise[core.SumContent(b.Data)] = b.Data
			}
			return nil
		},
		func() error { return s.put(ctx, small) },
		func() error { return s.put(ctx, large) },
		func() error { return s.drop(small, s.o.Delete(ctx, s.doubt(small))) },
		func() error { return s.put(ctx, small) },
		func() error {
			gone := group[0].Data
			id := s.doubt(gone)
			_, err := s.o.GC(ctx, func(c core.ContentID) (bool, error) { return c != id, nil }, 0)
			return s.drop(gone, err)
		},
		func() error { return s.put(ctx, group[0].Data) },
	}
}

func (s *script) put(ctx context.Context, b []byte) error {
	id := core.SumContent(b)
	s.maybe[id] = b
	if _, err := s.o.Put(ctx, bytes.NewReader(b), core.PutOptions{}); err != nil {
		return err
	}
	s.promise[id] = b
	return nil
}

// doubt says that from here on an object may or may not be there.
func (s *script) doubt(b []byte) core.ContentID {
	id := core.SumContent(b)
	s.maybe[id], s.removes = b, true
	delete(s.promise, id)
	return id
}

// drop says that an object is gone, if err says so.
func (s *script) drop(b []byte, err error) error {
	if err == nil {
		delete(s.maybe, core.SumContent(b))
	}
	return err
}

// run plays the steps until one fails, and returns its error.
func (s *script) run(ctx context.Context) error {
	s.promise, s.maybe = map[core.ContentID][]byte{}, map[core.ContentID][]byte{}
	for _, step := range s.steps(ctx) {
		if err := step(); err != nil {
			return err
		}
		clear(s.maybe)
		s.removes = false
	}
	return nil
}

// check compares a store with what was promised. Other objects must be ones that
// the failed call was about.
func (s *script) check(ctx context.Context, o *Objects) error {
	for id, want := range s.promise {
		r, err := o.Get(ctx, id)
		if err != nil {
			return fmt.Errorf("promised: %w", err)
		}
		got, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			return fmt.Errorf("promised: %w", err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("promised object %s: %d other bytes", id, len(got))
		}
	}
	for info, err := range o.List(ctx, core.ContentID{}) {
		if err != nil {
			return fmt.Errorf("list: %w", err)
		}
		if s.promise[info.ID] == nil && s.maybe[info.ID] == nil {
			return fmt.Errorf("object %s is there and nobody put it", info.ID)
		}
	}
	rs, err := o.Verify(ctx, nil, false)
	if err == nil && len(rs) > 0 {
		err = fmt.Errorf("verify names %v", rs)
	}
	return err
}

// testBlock is the block size of stores in memory: a stream is short there.
const testBlock = 1 << 10

// testBulk lets the script's small group be synced as a whole, where that is on.
const testBulk = 5

func openOn(t *testing.T, fsys fileSystem) *Objects {
	t.Helper()
	o, err := OpenObjects(context.Background(), ObjectsConfig{fs: fsys, block: testBlock, bulk: testBulk, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// chaosCount is the number of rounds of a fault run: few unless asked for more.
func chaosCount(t *testing.T, few int) int {
	t.Helper()
	text := os.Getenv("ROLLOUT_CHAOS_COUNT")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("ROLLOUT_CHAOS_COUNT is %q, give a positive number", text)
	}
	return n
}

// TestR6ObjectsEveryCallFails lets each call of the disk fail in turn until the
// script passes. The errors take turns; a long run tries each of them everywhere.
func TestR6ObjectsEveryCallFails(t *testing.T) {
	passes := min(chaosCount(t, 1), len(diskErrors))
	for pass := range passes {
		for n := 1; ; n++ {
			fault := diskErrors[(n+pass)%len(diskErrors)]
			fired, err := failAt(t, n, fault)
			if err != nil {
				t.Errorf("%v at call %d (%s): %v", fault, n, fired, err)
			}
			if fired == "" {
				t.Logf("%d calls", n-1)
				break
			}
		}
	}
}

func failAt(t *testing.T, n int, fault error) (fired string, err error) {
	ctx := t.Context()
	mem := newMemFS()
	mem.whole = n%2 == 0
	ff := &faultFS{fileSystem: mem}
	s := &script{o: openOn(t, ff)}
	ff.arm(n, fault, false)
	got := s.run(ctx)
	fired = ff.firedAt()
	ff.arm(0, nil, false)
	if got != nil {
		if code := core.CodeOf(got); !slices.Contains([]core.Code{core.CodeBroken, core.CodeExhausted, core.CodePermissionDenied, core.CodeCorrupt}, code) || !errors.Is(got, fault) && code != core.CodeCorrupt {
			return fired, fmt.Errorf("error %q has code %s", got, code)
		}
		if err := s.afterFailure(ctx, mem); err != nil {
			return fired, fmt.Errorf("after %q: %w", got, err)
		}
	}
	if err := s.o.Close(); err != nil {
		return fired, err
	}
	again := openOn(t, mem)
	if err := s.check(ctx, again); err != nil {
		return fired, fmt.Errorf("reopened: %w", err)
	}
	if n := mem.temporaries(); n > 0 {
		return fired, fmt.Errorf("%d temporaries are left", n)
	}
	if got != nil {
		retry := &script{o: again}
		if err := retry.run(ctx); err != nil {
			return fired, fmt.Errorf("the same calls again: %w", err)
		}
	}
	return fired, again.Close()
}

// afterFailure checks the store that has just failed a call: reads work, what was
// promised is there, and of a failed put nothing is.
func (s *script) afterFailure(ctx context.Context, mem *memFS) error {
	if err := s.check(ctx, s.o); err != nil {
		return err
	}
	for id := range s.maybe {
		if s.promise[id] != nil {
			continue
		}
		there, err := s.o.Exists(ctx, id)
		if err != nil {
			return err
		}
		if there && !s.removes {
			return fmt.Errorf("object %s of the failed put is visible", id)
		}
	}
	return nil
}

// cutAt plays the script on a machine that loses power at call n and checks what
// it finds afterwards: once with nothing of what was not synced, and then with
// random parts of it.
func cutAt(t *testing.T, n int, whole bool, plant func(*faultFS)) (fired string, err error) {
	ctx := t.Context()
	mem := newMemFS()
	mem.whole = whole
	ff := &faultFS{fileSystem: mem}
	if plant != nil {
		plant(ff)
	}
	s := &script{o: openOn(t, ff)}
	ff.arm(n, errPowerCut, true)
	if err := s.run(ctx); err != nil && ff.firedAt() == "" {
		return "", err
	}
	fired = ff.firedAt()
	for try := range 4 {
		var rnd *rand.Rand
		if try > 0 {
			rnd = rand.New(rand.NewPCG(uint64(n), uint64(try)))
		}
		after := mem.crash(rnd)
		o := openOn(t, after)
		if err := s.check(ctx, o); err != nil {
			return fired, fmt.Errorf("try %d: %w", try, err)
		}
		if n := after.temporaries(); n > 0 {
			return fired, fmt.Errorf("%d temporaries are left", n)
		}
		if err := (&script{o: o}).run(ctx); err != nil {
			return fired, fmt.Errorf("the same calls again: %w", err)
		}
		if err := o.Close(); err != nil {
			return fired, err
		}
	}
	return fired, nil
}

// TestR10ObjectsCutEverywhere cuts the power of a machine in memory at each call.
func TestR10ObjectsCutEverywhere(t *testing.T) {
	for _, whole := range []bool{false, true} {
		for n := 1; ; n++ {
			fired, err := cutAt(t, n, whole, nil)
			if err != nil {
				t.Errorf("cut at call %d (%s), synced as a whole %v: %v", n, fired, whole, err)
			}
			if fired == "" {
				t.Logf("synced as a whole %v: %d calls", whole, n-1)
				break
			}
		}
	}
}

// TestR10PlantedBugs shows that the cuts find a store that does not sync.
func TestR10PlantedBugs(t *testing.T) {
	for name, plant := range map[string]func(*faultFS){
		"directories are not synced": func(f *faultFS) { f.skipDirSync = true },
		"files are not synced":       func(f *faultFS) { f.skipFileSync = true },
	} {
		for n := 1; ; n++ {
			fired, err := cutAt(t, n, false, plant)
			if err != nil {
				t.Logf("%s: the cut at call %d shows it: %v", name, n, err)
				break
			}
			if fired == "" {
				t.Errorf("%s, and no cut shows it", name)
				break
			}
		}
	}
}
