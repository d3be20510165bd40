package main

// inProcessRows are calls of plugins that run inside the worker: of a shared
// library beside bare cgo, and of embedded Python beside a bare hop to a thread
// and back.
func inProcessRows() []row {
	const pkg = "pkg/pluginhost"
	const copying, hop = "BenchmarkSO/size=100/baseline=cgo-copy", "BenchmarkPython/callers=64/baseline=hop"
	return []row{
		// 400 ns where bare cgo takes 315 ns, and 3 us with a deadline.
		{group: "plugins", name: "so, 100 B", pkg: pkg, reach: 0.79,
			ours: "BenchmarkSO/size=100/call", base: copying},
		{group: "plugins", name: "so, 100 B, with a deadline", pkg: pkg, reach: 0.105,
			ours: "BenchmarkSO/size=100/call-deadline", base: copying},
		{group: "plugins", name: "so, 64 KiB", pkg: pkg, reach: 0.5,
			ours: "BenchmarkSO/size=65536/call", base: "BenchmarkSO/size=65536/baseline=cgo-copy"},
		{group: "plugins", name: "so, 64 KiB, allocated", pkg: pkg, unit: "B/op", reach: 1,
			ours: "BenchmarkSO/size=65536/call", base: "BenchmarkSO/size=65536/baseline=cgo-copy"},
		{group: "plugins", name: "python embedded, 1 caller", pkg: pkg, reach: 1 / 1.3,
			ours: "BenchmarkPython/callers=1/call", base: "BenchmarkPython/callers=1/baseline=hop"},
		// 0.5 M calls/s where the bare hop makes 1.1 M.
		{group: "plugins", name: "python embedded, 64 callers", pkg: pkg, unit: "calls/s", reach: 0.45,
			ours: "BenchmarkPython/callers=64/call", base: hop},
		{group: "plugins", name: "python embedded, 64 callers, with deadlines", pkg: pkg, unit: "calls/s", reach: 0.45,
			ours: "BenchmarkPython/callers=64/call-deadline", base: hop},
	}
}
