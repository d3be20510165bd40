//go:build cgo && linux

package pluginhost

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/ctest"
)

// BenchmarkSO sets a call through the host beside what a user of bare cgo gets from
// the same library: a loop in C, and one call that copies with C.CBytes and C.GoBytes.
func BenchmarkSO(b *testing.B) {
	path := ctest.Library(b, "internal/cabi/testdata/v1.c")
	h, _ := testHost(b, nil)
	mustLoad(b, h, soManifest(path, "so"))
	raw := ctest.OpenRaw(b, path)
	deadline, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	for _, size := range []int{100, 64 << 10} {
		payload := bytes.Repeat([]byte{'x'}, size)
		b.Run(fmt.Sprintf("size=%d/baseline=c-loop", size), func(b *testing.B) { raw.Loop("echo", payload, b.N) })
		b.Run(fmt.Sprintf("size=%d/baseline=cgo-copy", size), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				raw.CallCopying("echo", payload)
			}
		})
		for name, ctx := range map[string]context.Context{"call": context.Background(), "call-deadline": deadline} {
			b.Run(fmt.Sprintf("size=%d/%s", size, name), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := h.Call(ctx, "so", "echo", payload); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// hop is the baseline of embedded Python: a goroutine on a thread of its own that
// answers what comes over a channel, without any Python.
type hop struct {
	payload []byte
	done    chan []byte
}

// BenchmarkPython sets embedded calls through the host beside the bare hop to a
// thread and back, with one caller and with 64.
func BenchmarkPython(b *testing.B) {
	dir := writeFiles(b, map[string]string{"bare.py": "class P:\n    def call(self, method, payload):\n        return payload\ndef create_plugin():\n    return P()\n"})
	h, _ := testHost(b, nil)
	mustLoad(b, h, embedded(b, dir, "bare", "bare"))
	hops := make(chan hop, 1024)
	var ended sync.WaitGroup
	ended.Go(func() {
		runtime.LockOSThread()
		for r := range hops {
			r.done <- append([]byte(nil), r.payload...)
		}
	})
	b.Cleanup(func() {
		close(hops)
		ended.Wait()
	})
	payload := bytes.Repeat([]byte{'x'}, 100)
	deadline, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d/baseline=hop", callers), func(b *testing.B) {
			callFrom(b, callers, func(n int) {
				done := make(chan []byte, 1)
				for range n {
					hops <- hop{payload: payload, done: done}
					<-done
				}
			})
		})
		for name, ctx := range map[string]context.Context{"call": context.Background(), "call-deadline": deadline} {
			b.Run(fmt.Sprintf("callers=%d/%s", callers, name), func(b *testing.B) {
				callFrom(b, callers, func(n int) {
					for range n {
						if _, err := h.Call(ctx, "bare", "echo", payload); err != nil {
							b.Error(err)
							return
						}
					}
				})
			})
		}
	}
}
