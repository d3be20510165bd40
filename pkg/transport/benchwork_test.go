package transport

import (
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

const (
	workChannels = 8
	workSlots    = 8 // of each worker: 64 items are in work at a time
)

func benchStore(b *testing.B) core.Storage {
	b.Helper()
	s, err := storage.Open(b.Context(), storage.Config{Path: filepath.Join(b.TempDir(), "rollout.db")})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// BenchmarkWork is an item's way through the work channel: leased, sent, answered,
// its result durable. Beside it, the queue alone: enqueue, lease and ack, 64 at a
// time.
func BenchmarkWork(b *testing.B) {
	for _, p := range []Protocol{ProtocolH2, ProtocolQUIC} {
		b.Run(string(p)+"/ours", func(b *testing.B) { benchWork(b, p) })
	}
	b.Run("cycle", benchCycle)
}

func benchWork(b *testing.B, p Protocol) {
	w := newWorkHarness(b, p, benchStore(b))
	i := 0
	payload := fmt.Appendf(nil, "%0100d", 7)
	job, err := w.book.Submit(b.Context(), core.JobSpec{Plugin: "reward", Digest: "d1", Method: "score"}, func() (core.JobItem, error) {
		if i == b.N {
			return core.JobItem{}, io.EOF
		}
		i++
		return core.JobItem{ID: fmt.Sprint(i), Payload: payload}, nil
	})
	if err != nil {
		b.Fatal(err)
	}
	var sessions []core.WorkSession
	for range workChannels {
		id := core.NewWorkerID()
		c, err := w.conn(id)
		if err != nil {
			b.Fatal(err)
		}
		s, err := c.Attach(b.Context(), core.WorkerRef{ID: id, Epoch: 1}, workPlugins, nil)
		if err != nil {
			b.Fatal(err)
		}
		sessions = append(sessions, s)
	}
	var left atomic.Int64
	left.Store(int64(b.N))
	over := make(chan struct{})
	var group sync.WaitGroup
	b.ResetTimer()
	for _, s := range sessions {
		group.Go(func() { benchWorker(b, s, &left, over) })
	}
	<-over
	b.StopTimer()
	for _, s := range sessions {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
	if j := must(w.book.Job(b.Context(), job.ID)); j.State != core.JobFinished || j.Counts.OK != int64(b.N) {
		b.Errorf("the job ended as %+v", j)
	}
}

// benchWorker pulls and answers as a worker does whose plugin takes no time.
func benchWorker(b *testing.B, s core.WorkSession, left *atomic.Int64, over chan struct{}) {
	var submits sync.WaitGroup
	defer submits.Wait()
	room := make(chan struct{}, 4)
	for {
		items, err := s.Pull(b.Context(), core.PullBudget{Slots: workSlots})
		if err != nil {
			return // the end
		}
		results := make([]core.WorkResult, len(items))
		for i, it := range items {
			results[i] = core.WorkResult{Lease: it.Lease, Result: []byte(`{"score":1}`)}
		}
		room <- struct{}{}
		submits.Go(func() {
			defer func() { <-room }()
			errs, err := s.Submit(b.Context(), results)
			for _, e := range errs {
				if e != nil {
					err = e
				}
			}
			if err != nil {
				b.Error(err)
			}
			if left.Add(-int64(len(items))) == 0 || err != nil {
				close(over)
			}
		})
	}
}

func benchCycle(b *testing.B) {
	store := benchStore(b)
	q, err := cloudlocal.OpenQueue(b.Context(), cloudlocal.QueueConfig{Storage: store, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	payload := fmt.Appendf(nil, "%0100d", 7)
	var next atomic.Int64
	var group sync.WaitGroup
	b.ResetTimer()
	for g := range workChannels * workSlots {
		group.Go(func() {
			for next.Add(1) <= int64(b.N) {
				if err := oneCycle(b, q, core.WorkerID{15: byte(g + 1)}, payload); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "items/s")
	for _, c := range []io.Closer{q, store} {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	}
}

func oneCycle(b *testing.B, q core.Queue, owner core.WorkerID, payload []byte) error {
	if _, err := core.EnqueueOne(b.Context(), q, "q", core.NewItem{Payload: payload}); err != nil {
		return err
	}
	got, err := q.Dequeue(b.Context(), core.DequeueOptions{Queues: []string{"q"}, Owner: owner, Epoch: 1, MaxItems: 1})
	if err != nil {
		return err
	}
	if len(got) != 1 {
		return fmt.Errorf("%d items came where one was due", len(got))
	}
	return core.AckOne(b.Context(), q, got[0].Lease)
}
