package worker

import (
	"bytes"
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// fakeWork is the coordinator's side of work: what there is to do, what came back,
// and the trouble on the way.
type fakeWork struct {
	mu       sync.Mutex // guards the fields below
	ready    []core.WorkItem
	came     []core.WorkResult // accepted
	answers  []error           // of the next results, one each; then nil
	returned []core.Lease
	away     int // calls of Upload and Download that find nobody
	content  map[core.ContentID][]byte
	changed  chan struct{} // closed and replaced at every change
}

func newFakeWork(items ...core.WorkItem) *fakeWork {
	return &fakeWork{ready: items, content: map[core.ContentID][]byte{}, changed: make(chan struct{})}
}

// set changes the fake under its mutex.
func (w *fakeWork) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	close(w.changed)
	w.changed = make(chan struct{})
}

// until waits for a condition, which is evaluated under the mutex.
func (w *fakeWork) until(ok func() bool) {
	for {
		w.mu.Lock()
		done, changed := ok(), w.changed
		w.mu.Unlock()
		if done {
			synctest.Wait()
			return
		}
		<-changed
	}
}

func (w *fakeWork) Attach(context.Context, core.WorkerRef, []core.LoadedPlugin, []core.Lease) (core.WorkSession, error) {
	return w, nil
}

func (w *fakeWork) Resumed() ([]core.WorkItem, []core.Lease) { return nil, nil }

func (w *fakeWork) SetPlugins([]core.LoadedPlugin) {}

func (w *fakeWork) Close() error { return nil }

func (w *fakeWork) Pull(ctx context.Context, budget core.PullBudget) (out []core.WorkItem, err error) {
	for {
		w.mu.Lock()
		changed := w.changed
		n := min(budget.Slots, len(w.ready))
		out, w.ready = slices.Clone(w.ready[:n]), w.ready[n:]
		w.mu.Unlock()
		if n > 0 {
			return out, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, core.Wrap("fake", core.CodeCanceled, ctx.Err())
		}
	}
}

func (w *fakeWork) Submit(_ context.Context, results []core.WorkResult) ([]error, error) {
	errs := make([]error, len(results))
	w.set(func() {
		for i, r := range results {
			if len(w.answers) > 0 {
				errs[i], w.answers = w.answers[0], w.answers[1:]
			}
			if errs[i] == nil {
				w.came = append(w.came, r)
			}
		}
	})
	return errs, nil
}

func (w *fakeWork) Return(_ context.Context, leases []core.Lease, _ string) error {
	w.set(func() { w.returned = append(w.returned, leases...) })
	return nil
}

// absent reports, the given number of times, that the coordinator is away.
func (w *fakeWork) absent() (err error) {
	w.set(func() {
		if w.away > 0 {
			w.away--
			err = core.Errorf("fake", core.CodeUnavailable, "nobody is there")
		}
	})
	return err
}

func (w *fakeWork) Upload(_ context.Context, b []byte) (core.ContentID, error) {
	if err := w.absent(); err != nil {
		return core.ContentID{}, err
	}
	id := core.SumContent(b)
	w.set(func() { w.content[id] = bytes.Clone(b) })
	return id, nil
}

func (w *fakeWork) Download(_ context.Context, id core.ContentID, _ int64) (b []byte, err error) {
	if err := w.absent(); err != nil {
		return nil, err
	}
	w.set(func() {
		if b = w.content[id]; b == nil {
			err = core.Errorf("fake", core.CodeNotFound, "there is no %s", id)
		}
	})
	return b, err
}

// workingLink is a link that carries work.
type workingLink struct {
	link
	*fakeWork
}

func (l workingLink) Close() error { return l.link.Close() }

type workingDialer struct {
	fakeDialer
	work *fakeWork
}

func (d workingDialer) dial(ctx context.Context) (link, error) {
	l, err := d.fakeDialer.dial(ctx)
	if err != nil {
		return nil, err
	}
	return workingLink{l, d.work}, nil
}

// doer answers items.
type doer struct {
	idle
	do func(core.WorkItem) ([]byte, error)
}

func (d doer) Execute(_ context.Context, items []core.WorkItem) []core.WorkResult {
	out := make([]core.WorkResult, len(items))
	for i, it := range items {
		out[i].Result, out[i].Err = d.do(it)
	}
	return out
}

// working starts a worker whose coordinator has work for it.
func working(t *testing.T, work *fakeWork, do func(core.WorkItem) ([]byte, error)) *rig {
	t.Helper()
	r := prepare(t, newFake(), func(c *Config) { c.Executor = doer{do: do} })
	r.dialer = workingDialer{fakeDialer{r.f}, work}
	r.run()
	return r
}

func item(n uint64) core.WorkItem {
	return core.WorkItem{Lease: core.Lease{Queue: "q", Item: core.ItemID(n), Token: n}, Plugin: "p", Payload: []byte("in")}
}

func (r *rig) leaveWell(t *testing.T) {
	t.Helper()
	if err := r.leaveNow(); err != nil {
		t.Error(err)
	}
}

// TestAnAbsentCoordinatorCostsAnItemNothing has the coordinator away while a payload
// is fetched and while a result is uploaded: both wait, and the item is worked on
// once.
func TestAnAbsentCoordinatorCostsAnItemNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		payload, result := bytes.Repeat([]byte("p"), 1000), bytes.Repeat([]byte("r"), core.MaxInlinePayload+1)
		it := item(1)
		it.Payload, it.Content = nil, core.SumContent(payload)
		work := newFakeWork(it)
		work.content[it.Content] = payload
		work.away = 3
		tries := 0
		r := working(t, work, func(got core.WorkItem) ([]byte, error) {
			if tries++; !bytes.Equal(got.Payload, payload) {
				t.Errorf("the executor is given %d bytes", len(got.Payload))
			}
			work.set(func() { work.away = 3 })
			return result, nil
		})
		work.until(func() bool { return len(work.came) == 1 })
		came := work.came[0]
		if came.Err != nil || came.Result != nil || !bytes.Equal(work.content[came.Content], result) || came.Lease != it.Lease || tries != 1 {
			t.Errorf("after %d tries came %+v", tries, came)
		}
		r.leaveWell(t)
	})
}

// TestAPayloadThatIsGoneIsTheItemsResult does not wait for what will never come.
func TestAPayloadThatIsGoneIsTheItemsResult(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		it := item(1)
		it.Payload, it.Content = nil, core.SumContent([]byte("gone"))
		work := newFakeWork(it)
		r := working(t, work, func(core.WorkItem) ([]byte, error) {
			t.Error("it was worked on without its payload")
			return nil, nil
		})
		work.until(func() bool { return len(work.came) == 1 })
		if err := work.came[0].Err; !core.IsCode(err, core.CodeNotFound) {
			t.Errorf("its result is %v", err)
		}
		r.leaveWell(t)
	})
}

// TestARefusedResultLeavesNoItemLeased has results refused for what they are: the
// refusal becomes the result, and when that is refused too the item goes back.
func TestARefusedResultLeavesNoItemLeased(t *testing.T) {
	refusal := core.Errorf("fake", core.CodeTooLarge, "too many bytes")
	later := core.Errorf("fake", core.CodeExhausted, "the disk is full")
	lost := core.Errorf("fake", core.CodeLeaseLost, "somebody else has it")
	for name, c := range map[string]struct {
		answers  []error
		code     core.Code // of the result that is accepted; 0: none is
		ok       bool
		returned int
	}{
		"once":           {answers: []error{refusal}, code: core.CodeTooLarge},
		"twice":          {answers: []error{refusal, refusal}, returned: 1},
		"for a while":    {answers: []error{later, later, later}, ok: true},
		"the lease lost": {answers: []error{lost}},
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				work := newFakeWork(item(1))
				work.answers = c.answers
				r := working(t, work, func(core.WorkItem) ([]byte, error) { return []byte("out"), nil })
				work.until(func() bool {
					return len(work.answers) == 0 && len(work.came)+len(work.returned) > 0 || name == "the lease lost" && len(work.answers) == 0
				})
				switch {
				case c.ok && (len(work.came) != 1 || work.came[0].Err != nil || string(work.came[0].Result) != "out"):
					t.Errorf("came %+v", work.came)
				case c.code != 0 && (len(work.came) != 1 || !core.IsCode(work.came[0].Err, c.code)):
					t.Errorf("came %+v, want %v", work.came, c.code)
				case !c.ok && c.code == 0 && len(work.came) != 0:
					t.Errorf("came %+v, want nothing", work.came)
				}
				if len(work.returned) != c.returned {
					t.Errorf("%d items were handed back, want %d", len(work.returned), c.returned)
				}
				if n, _, _ := r.current.Load().bench.busy(); n != 0 || len(r.current.Load().bench.leases()) != 0 {
					t.Errorf("%d items are in work, %d are held", n, len(r.current.Load().bench.leases()))
				}
				r.leaveWell(t)
			})
		})
	}
}
