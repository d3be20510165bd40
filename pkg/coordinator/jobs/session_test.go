package jobs

import (
	"context"
	"sync"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestANewerSessionReplacesTheOlder(t *testing.T) {
	b := newBench(t)
	b.submit(spec, "a")
	old := b.attach(ref(1, 1))
	got := make(chan error, 1)
	b.pull(old, 1)
	go func() {
		_, err := old.Pull(context.Background(), core.PullBudget{Slots: 1})
		got <- err
	}()
	b.attach(ref(1, 1))
	if err := <-got; !core.IsCode(err, core.CodeConflict) {
		t.Errorf("the older session ended with %v", err)
	}
	b.attach(ref(1, 2))
	if _, err := b.book.Attach(t.Context(), ref(1, 1), plugins, nil); !core.IsCode(err, core.CodeFenced) {
		t.Errorf("an older epoch attached: %v", err)
	}
}

func TestWhatAnOldSessionIsJustLeasingIsNotLost(t *testing.T) {
	b := newBench(t)
	b.submit(spec, "a")
	old := b.attach(ref(1, 1))
	entered, release := make(chan struct{}), make(chan struct{})
	var once sync.Once
	hold := func() { once.Do(func() { close(entered); <-release }) }
	b.hold.Store(&hold)
	pulled := make(chan int, 1)
	go func() {
		items, _ := old.Pull(context.Background(), core.PullBudget{Slots: 1})
		pulled <- len(items)
	}()
	<-entered // the lease is on its way to disk
	attached := make(chan core.WorkSession, 1)
	go func() {
		s, err := b.book.Attach(context.Background(), ref(1, 1), plugins, nil)
		if err != nil {
			t.Error(err)
		}
		attached <- s
	}()
	close(release)
	<-pulled // whatever the old stream got, nobody reads it any more
	missed, _ := (<-attached).Resumed()
	if len(missed) != 1 {
		t.Errorf("the new session was told of %d items, the epoch holds 1", len(missed))
	}
}
