package cloudlocal

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// halfPut is a stream of which a block is on its way and the rest is still to come.
type halfPut struct {
	bytes []byte
	rest  *io.PipeWriter
	err   chan error
}

func beginPut(t *testing.T, o *Objects, seed uint64) *halfPut {
	t.Helper()
	r, w := io.Pipe()
	p := &halfPut{bytes: noise(4*testBlock, seed), rest: w, err: make(chan error, 1)}
	go func() {
		_, err := o.Put(context.Background(), r, core.PutOptions{})
		p.err <- errors.Join(err, r.Close())
	}()
	// Whoever reads the second block has made the temporary for the first.
	if _, err := w.Write(p.bytes[:2*testBlock]); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *halfPut) finish(t *testing.T) {
	t.Helper()
	if _, err := p.rest.Write(p.bytes[2*testBlock:]); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(p.rest.Close(), <-p.err); err != nil {
		t.Fatal(err)
	}
}

func directoriesOf(t *testing.T, fsys fileSystem) int {
	t.Helper()
	entries, err := fsys.ReadDir(tmpDir)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// TestPutsAtOnceHaveDirectoriesOfTheirOwn follows the directories of temporaries: one
// for each put at a time up to a bound, used again by later ones, gone with Close,
// and swept when their process died.
func TestPutsAtOnceHaveDirectoriesOfTheirOwn(t *testing.T) {
	mem := newMemFS()
	o := openOn(t, mem)
	for i := range uint64(3) {
		mustPut(t, o, noise(100, i))
	}
	if n := directoriesOf(t, mem); n != 1 {
		t.Errorf("puts one after the other have %d directories, want 1", n)
	}
	for made := 1; made <= maxSessions; made += maxSessions - 1 {
		var puts []*halfPut
		for i := range maxSessions + 4 {
			puts = append(puts, beginPut(t, o, uint64(100+i)))
			if n := directoriesOf(t, mem); n != min(max(i+1, made), maxSessions) {
				t.Errorf("%d puts at once have %d directories after %d, at most %d are made", i+1, n, made, maxSessions)
			}
		}
		openOn(t, mem) // whoever opens the store now must leave them alone
		for _, p := range puts {
			p.finish(t)
			wantStored(t, o, core.SumContent(p.bytes), p.bytes)
			if err := o.Delete(t.Context(), core.SumContent(p.bytes)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := directoriesOf(t, mem); n != maxSessions {
		t.Errorf("%d directories after all puts, want the %d that were made", n, maxSessions)
	}
	if err := o.Close(); err != nil {
		t.Fatal(err)
	}
	if n := directoriesOf(t, mem); n != 0 {
		t.Errorf("%d directories are left after Close", n)
	}

	o = openOn(t, mem)
	puts := []*halfPut{beginPut(t, o, 1000), beginPut(t, o, 1001)}
	if n := mem.temporaries(); n != len(puts) {
		t.Fatalf("%d temporaries of %d puts", n, len(puts))
	}
	mem.releaseLocks() // as the kernel does when the process dies
	openOn(t, mem)
	if n := directoriesOf(t, mem); n != 0 {
		t.Errorf("%d directories of a dead process are left", n)
	}
	for _, p := range puts {
		cut := errors.New("the process is gone")
		if err := p.rest.CloseWithError(cut); err != nil {
			t.Fatal(err)
		}
		if err := <-p.err; !errors.Is(err, cut) {
			t.Errorf("the put ended with %v", err)
		}
	}
}
