package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// TestTenThousandConcurrentPuts gives each put a context of its own, a third of
// which end early. All of them finish or fail typed, and what they say is true.
func TestTenThousandConcurrentPuts(t *testing.T) {
	const n = 10_000
	s := openStore(t, nil)
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if i%3 == 0 {
				go cancel()
			}
			_, errs[i] = core.PutBytes(ctx, s, core.NewKey("kit", UintSegment(uint64(i))), fmt.Append(nil, i))
		})
	}
	wg.Wait()
	rows, err := s.Scan(t.Context(), core.NewKey("kit"), core.ScanOptions{})
	if err != nil {
		t.Fatal(err)
	}
	stored := map[string]bool{}
	revisions := map[uint64]bool{}
	for _, e := range rows {
		stored[e.Key.Path[0]] = true
		if revisions[e.Revision] {
			t.Fatalf("revision %d was given out twice", e.Revision)
		}
		revisions[e.Revision] = true
	}
	failed := 0
	for i, err := range errs {
		there := stored[UintSegment(uint64(i))]
		switch {
		case err == nil && !there:
			t.Fatalf("put %d succeeded and is not stored", i)
		case err != nil && !core.IsCode(err, core.CodeCanceled):
			t.Fatalf("put %d: %v", i, err)
		case err != nil:
			failed++
		}
	}
	if uint64(len(rows)) != s.Revision() {
		t.Errorf("%d rows at revision %d", len(rows), s.Revision())
	}
	t.Logf("%d stored, %d canceled", len(rows), failed)
}

// gate is a hook that stops the committer until it is opened.
type gate struct{ reached, open chan struct{} }

func newGate() *gate { return &gate{make(chan struct{}, 100), make(chan struct{})} }

func (g *gate) at(p hookPoint) {
	if p == hookStaged {
		g.reached <- struct{}{}
		<-g.open
	}
}

// queued waits until n transactions wait behind the one being committed.
func queued(s *Store, n int) {
	for {
		s.queueMu.Lock()
		now := len(s.queue)
		s.queueMu.Unlock()
		if now == n {
			return
		}
		runtime.Gosched()
	}
}

// put starts a put of one row and returns where its error arrives.
func (s *Store) startPut(ctx context.Context, name string) chan error {
	done := make(chan error, 1)
	go func() {
		_, err := core.PutBytes(ctx, s, core.NewKey("kit", name), []byte(name))
		done <- err
	}()
	return done
}

func TestCanceledWhileQueuedIsNotStored(t *testing.T) {
	g := newGate()
	s := openStore(t, func(c *Config) { c.hooks.at = g.at })
	first := s.startPut(t.Context(), "first")
	<-g.reached
	ctx, cancel := context.WithCancel(t.Context())
	second := s.startPut(ctx, "second")
	third := s.startPut(t.Context(), "third")
	queued(s, 2)
	cancel()
	wantCode(t, <-second, core.CodeCanceled)
	close(g.open)
	if err := errors.Join(<-first, <-third); err != nil {
		t.Fatal(err)
	}
	rows, err := s.Scan(t.Context(), core.NewKey("kit"), core.ScanOptions{})
	if err != nil || len(rows) != 2 || s.Revision() != 2 {
		t.Fatalf("%d rows at revision %d, %v", len(rows), s.Revision(), err)
	}
}

func TestAFullQueueMakesCallersWait(t *testing.T) {
	g := newGate()
	s := openStore(t, func(c *Config) { c.hooks.at, c.QueueDepth = g.at, 2 })
	first := s.startPut(t.Context(), "0")
	<-g.reached
	done := []chan error{first, s.startPut(t.Context(), "1"), s.startPut(t.Context(), "2")}
	queued(s, 2)
	ctx, cancel := context.WithCancel(t.Context())
	refused := s.startPut(ctx, "refused")
	waiting := s.startPut(t.Context(), "3")
	cancel()
	wantCode(t, <-refused, core.CodeCanceled)
	close(g.open)
	for _, d := range append(done, waiting) {
		if err := <-d; err != nil {
			t.Fatal(err)
		}
	}
	if rows, err := s.Scan(t.Context(), core.NewKey("kit"), core.ScanOptions{}); err != nil || len(rows) != 4 {
		t.Fatal(rows, err)
	}
}

// TestOneMemberOfAGroupFailsAlone has three transactions in one group that swap
// the same row, of which the first wins.
func TestOneMemberOfAGroupFailsAlone(t *testing.T) {
	g := newGate()
	s := openStore(t, func(c *Config) { c.hooks.at = g.at })
	var txs []core.Txn
	for range 3 {
		tx, err := s.Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if ok, err := tx.CompareAndSwap(t.Context(), core.NewKey("kit", "same"), nil, []byte("x")); !ok || err != nil {
			t.Fatal(ok, err)
		}
		txs = append(txs, tx)
	}
	first := s.startPut(t.Context(), "first")
	<-g.reached
	results := make(chan error, len(txs))
	for i, tx := range txs {
		go func() { _, err := tx.Commit(t.Context()); results <- err }()
		queued(s, i+1)
	}
	other := s.startPut(t.Context(), "other")
	queued(s, 4)
	close(g.open)
	if err := errors.Join(<-first, <-other); err != nil {
		t.Fatal(err)
	}
	won := 0
	for range txs {
		if err := <-results; err == nil {
			won++
		} else {
			wantCode(t, err, core.CodeConflict)
		}
	}
	if won != 1 || s.Revision() != 3 {
		t.Errorf("%d of the group won, revision %d", won, s.Revision())
	}
	if len(g.reached) != 1 {
		t.Errorf("%d syncs followed the first, want one for the whole group", len(g.reached))
	}
}

// TestAGroupNeverOverrunsAWatcherThatKeepsUp queues more changes than the whole
// history holds behind one commit.
func TestAGroupNeverOverrunsAWatcherThatKeepsUp(t *testing.T) {
	const n = 100
	g := newGate()
	s := openStore(t, func(c *Config) { c.hooks.at, c.HistoryEvents = g.at, 20 })
	w, err := s.Watch(t.Context(), core.NewKey("kit"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, w)
	done := []chan error{s.startPut(t.Context(), "first")}
	<-g.reached
	for i := range n {
		done = append(done, s.startPut(t.Context(), fmt.Sprint(i)))
	}
	queued(s, n)
	g.open <- struct{}{}
	for rev := uint64(1); rev <= n+1; rev++ {
		c, err := w.Next(t.Context())
		if err != nil || c.Revision != rev {
			t.Fatalf("revision %d, want %d: %v", c.Revision, rev, err)
		}
		for s.Revision() == rev && rev <= n { // all of this group is delivered: let the next go on
			select {
			case <-g.reached:
				g.open <- struct{}{}
			default:
				runtime.Gosched()
			}
		}
	}
	for _, d := range done {
		if err := <-d; err != nil {
			t.Fatal(err)
		}
	}
}

// paired reports whether both meta pages of the file lead to the same rows.
func paired(t testing.TB, path string) bool {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer mustClose(t, f)
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	m, err := readMetas(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return m.damaged() == nil && m.pages[0].root == m.pages[1].root
}

func TestCloseAndIdlenessPairTheMetaPages(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.db")
	makeStore(t, path)
	if !paired(t, path) {
		t.Error("a closed store has unlike meta pages")
	}
	s := openStore(t, func(c *Config) { c.Path = path })
	if _, err := core.PutBytes(t.Context(), s, core.NewKey("kit", "a"), nil); err != nil {
		t.Fatal(err)
	}
	rev := s.Revision()
	for { // the idle timer ends this
		s.lead <- struct{}{}
		idle := !s.state.unpaired
		<-s.lead
		if idle {
			break
		}
		runtime.Gosched()
	}
	if !paired(t, path) || s.Revision() != rev {
		t.Errorf("an idle store has unlike meta pages, or another revision: %d", s.Revision())
	}
}
