//go:build cgo && linux

package cabi

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/pluginhost/internal/ctest"
)

// BenchmarkCall sets a call of a plugin beside the raw mechanism: the same
// library called in a C loop, and with C.CBytes and C.GoBytes.
func BenchmarkCall(b *testing.B) {
	path := ctest.Library(b, "testdata/v1.c")
	raw := ctest.OpenRaw(b, path)
	lib := openBuilt(b, "testdata/v1.c")
	plugin, err := Start(b.Context(), lib, nil, 1)
	if err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{100, 64 << 10} {
		payload := bytes.Repeat([]byte{'x'}, n)
		b.Run(fmt.Sprintf("baseline=c-loop/size=%d", n), func(b *testing.B) {
			raw.Loop("echo", payload, b.N)
		})
		b.Run(fmt.Sprintf("baseline=cgo-copy/size=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				raw.CallCopying("echo", payload)
			}
		})
		b.Run(fmt.Sprintf("library/size=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := lib.Call("echo", payload); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("call/size=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := plugin.Call(context.Background(), "echo", payload); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("call-deadline/size=%d", n), func(b *testing.B) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
			defer cancel()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := plugin.Call(ctx, "echo", payload); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
