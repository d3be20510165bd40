package main

// storageRows are measured against bbolt used by hand: one Update for each put
// where there is one writer, and one goroutine that commits for all waiting ones
// where there are many.
func storageRows() []row {
	const pkg = "pkg/storage"
	return []row{
		{group: "storage", name: "durable put, 1 writer", pkg: pkg, benchtime: "4000x", reach: 0.9,
			ours: "BenchmarkPut/1-writer/ours", base: "BenchmarkPut/1-writer/raw"},
		{group: "storage", name: "durable put, 64 writers", pkg: pkg, benchtime: "40000x", reach: 0.8,
			ours: "BenchmarkPut/64-writers/ours", base: "BenchmarkPut/64-writers/raw"},
		{group: "storage", name: "durable put, 256 writers", pkg: pkg, benchtime: "60000x", reach: 0.8,
			ours: "BenchmarkPut/256-writers/ours", base: "BenchmarkPut/256-writers/raw"},
		{group: "storage", name: "get, 1 reader", pkg: pkg, benchtime: "300000x", reach: 0.7,
			ours: "BenchmarkGet/1-reader/ours", base: "BenchmarkGet/1-reader/raw"},
		{group: "storage", name: "get, 2 readers", pkg: pkg, benchtime: "300000x", reach: 0.7,
			ours: "BenchmarkGet/2-readers/ours", base: "BenchmarkGet/2-readers/raw"},
		// 3 M decoded keys a second where a bare cursor makes 11.4 M.
		{group: "storage", name: "scan of 100k keys, streamed", pkg: pkg, benchtime: "20x", unit: "keys/s", reach: 0.26,
			ours: "BenchmarkScan/ours", base: "BenchmarkScan/raw"},
		{group: "storage", name: "heap while streaming", pkg: pkg, benchtime: "20x", unit: "peak-B", limit: 8 << 20, reach: 1,
			ours: "BenchmarkScan/ours"},
		{group: "storage", name: "begin to event, 64 writers, 100 watchers, p99", pkg: pkg, benchtime: "40000x", unit: "event-p99-ns", baseUnit: "commit-p99-ns", reach: 0.5,
			ours: "BenchmarkWatch", base: "BenchmarkWatch"},
		{group: "storage", name: "file after 100k overwrites of 1k keys", pkg: pkg, benchtime: "1x", unit: "file-B", reach: 0.5,
			ours: "BenchmarkOverwrite/ours", base: "BenchmarkOverwrite/raw"},
	}
}
