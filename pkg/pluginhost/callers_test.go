package pluginhost

import (
	"sync"
	"testing"
)

// callFrom divides b.N calls among callers and reports calls per second.
func callFrom(b *testing.B, callers int, call func(n int)) {
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
