//go:build cgo && linux

package pyembed

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"
)

// hop is the baseline of embedded calls: a goroutine on a thread of its own that
// answers what comes over a channel, without any Python.
type hop struct{ queue chan hopRequest }

type hopRequest struct {
	payload []byte
	done    chan []byte
}

func startHop(b *testing.B) hop {
	h := hop{queue: make(chan hopRequest, QueueDepth)}
	var ended sync.WaitGroup
	ended.Go(func() {
		runtime.LockOSThread()
		for r := range h.queue {
			r.done <- append([]byte(nil), r.payload...)
		}
	})
	b.Cleanup(func() {
		close(h.queue)
		ended.Wait()
	})
	return h
}

func (h hop) call(payload []byte, done chan []byte) []byte {
	h.queue <- hopRequest{payload: payload, done: done}
	return <-done
}

// BenchmarkCall sets embedded calls beside the bare hop to a thread and back.
func BenchmarkCall(b *testing.B) {
	payload := bytes.Repeat([]byte{'x'}, 100)
	h := startHop(b)
	s := spec(b, "habits", "habits")
	s.Factory = "create_single"
	i := start(b, s)
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("baseline=hop/callers=%d", callers), func(b *testing.B) {
			spread(b, callers, func(n int) {
				done := make(chan []byte, 1)
				for range n {
					h.call(payload, done)
				}
			})
		})
		b.Run(fmt.Sprintf("python/callers=%d", callers), func(b *testing.B) {
			spread(b, callers, func(n int) {
				for range n {
					if _, err := i.Call(context.Background(), "echo", payload); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
		b.Run(fmt.Sprintf("python-deadline/callers=%d", callers), func(b *testing.B) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			spread(b, callers, func(n int) {
				for range n {
					if _, err := i.Call(ctx, "echo", payload); err != nil {
						b.Error(err)
						return
					}
				}
			})
		})
	}
}

// spread divides b.N calls among callers and reports calls per second.
func spread(b *testing.B, callers int, call func(n int)) {
	b.ReportAllocs()
	b.ResetTimer()
	var all sync.WaitGroup
	for c := range callers {
		n := b.N / callers
		if c < b.N%callers {
			n++
		}
		all.Go(func() { call(n) })
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}
