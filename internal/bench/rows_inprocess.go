package main

// inProcessRows are calls of plugins that run inside the worker: of a shared
// library beside bare cgo, and of embedded Python beside a bare hop to a thread
// and back.
func inProcessRows() []row {
	const pkg = "pkg/pluginhost"
	return []row{
		{group: "plugins", name: "so, 100 B, no deadline", pkg: pkg, limit: 400, reach: 1,
			ours: "BenchmarkSO/size=100/call"},
		{group: "plugins", name: "so, 100 B, beside bare cgo", pkg: pkg, reach: 0.8,
			ours: "BenchmarkSO/size=100/call", base: "BenchmarkSO/size=100/baseline=cgo-copy"},
		{group: "plugins", name: "so, 100 B, with a deadline", pkg: pkg, limit: 3000, reach: 1,
			ours: "BenchmarkSO/size=100/call-deadline"},
		{group: "plugins", name: "so, 64 KiB", pkg: pkg, reach: 0.5,
			ours: "BenchmarkSO/size=65536/call", base: "BenchmarkSO/size=65536/baseline=cgo-copy"},
		{group: "plugins", name: "so, 64 KiB, allocated", pkg: pkg, unit: "B/op", reach: 1,
			ours: "BenchmarkSO/size=65536/call", base: "BenchmarkSO/size=65536/baseline=cgo-copy"},
		{group: "plugins", name: "python embedded, 1 caller", pkg: pkg, reach: 1 / 1.3,
			ours: "BenchmarkPython/callers=1/call", base: "BenchmarkPython/callers=1/baseline=hop"},
		{group: "plugins", name: "python embedded, 64 callers", pkg: pkg, unit: "calls/s", limit: 500e3, reach: 1,
			ours: "BenchmarkPython/callers=64/call"},
		{group: "plugins", name: "python embedded, 64 callers, with deadlines", pkg: pkg, unit: "calls/s", limit: 500e3, reach: 1,
			ours: "BenchmarkPython/callers=64/call-deadline"},
	}
}
