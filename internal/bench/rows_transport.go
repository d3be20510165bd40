package main

// transportRows are measured against plain grpc-go: over mTLS on TCP with its
// defaults, and on one QUIC stream. Both ends run in one process, so a rate is what
// both cost together.
func transportRows() []row {
	const pkg = "pkg/transport"
	return []row{
		{group: "transport", name: "unary beat, alone, p50", pkg: pkg, benchtime: "10000x", unit: "p50-us", reach: 0.75,
			ours: "BenchmarkUnary/h2/alone/ours", base: "BenchmarkUnary/h2/alone/raw"},
		{group: "transport", name: "unary beats, 64 in flight", pkg: pkg, benchtime: "40000x", unit: "calls/s", reach: 0.75,
			ours: "BenchmarkUnary/h2/64/ours", base: "BenchmarkUnary/h2/64/raw"},
		{group: "transport", name: "beats on a stream, window 64", pkg: pkg, benchtime: "200000x", unit: "calls/s", reach: 0.6,
			ours: "BenchmarkStream/h2/ours", base: "BenchmarkStream/h2/raw"},
		{group: "transport", name: "over QUIC, unary, alone, p50", pkg: pkg, benchtime: "10000x", unit: "p50-us", reach: 0.8,
			ours: "BenchmarkUnary/quic/alone/ours", base: "BenchmarkUnary/quic/alone/raw"},
		{group: "transport", name: "over QUIC, unary, 64 in flight", pkg: pkg, benchtime: "40000x", unit: "calls/s", reach: 0.8,
			ours: "BenchmarkUnary/quic/64/ours", base: "BenchmarkUnary/quic/64/raw"},
		{group: "transport", name: "over QUIC, beat beside bulk at 1 % loss, p50", pkg: pkg, benchtime: "500x", unit: "p50-ms", reach: 2,
			ours: "BenchmarkBeside/own-streams", base: "BenchmarkBeside/one-stream"},
		{group: "transport", name: "over QUIC, beat beside bulk at 1 % loss, p99", pkg: pkg, benchtime: "2000x", unit: "p99-ms", limit: 35, reach: 1,
			ours: "BenchmarkBeside/own-streams"},
		{group: "transport", name: "killed worker noticed, worst", pkg: pkg, benchtime: "20x", unit: "worst-ms", limit: 20, reach: 1,
			ours: "BenchmarkKilledPeer/h2"},
		{group: "transport", name: "first good call after a QUIC coordinator vanished", pkg: pkg, benchtime: "10x", unit: "p50-ms", limit: 100, reach: 1,
			ours: "BenchmarkQUICRestart"},
		{group: "transport", name: "worker_failed after death, worst of 200, H = 500 ms", pkg: pkg, benchtime: "1x", unit: "max-ms", limit: 1000, reach: 1,
			ours: "BenchmarkDetection/h2"},
		{group: "transport", name: "over QUIC, worker_failed after death, worst of 200", pkg: pkg, benchtime: "1x", unit: "max-ms", limit: 1000, reach: 1,
			ours: "BenchmarkDetection/quic"},
		{group: "transport", name: "10,000 workers at H = 5 s, beat p99", pkg: pkg, benchtime: "1x", unit: "p99-ms", limit: 500, reach: 1,
			ours: "BenchmarkWorkers/h2/10000-5s"},
		{group: "transport", name: "10,000 workers, coordinator memory for each, KiB", pkg: pkg, benchtime: "1x", unit: "KiB/worker", limit: 100, reach: 1,
			ours: "BenchmarkWorkers/h2/10000-5s"},
		{group: "transport", name: "2,000 workers at H = 500 ms, beat p99", pkg: pkg, benchtime: "1x", unit: "p99-ms", limit: 50, reach: 1,
			ours: "BenchmarkWorkers/h2/2000-500ms"},
		{group: "transport", name: "2,000 workers, coordinator memory for each, KiB", pkg: pkg, benchtime: "1x", unit: "KiB/worker", limit: 100, reach: 1,
			ours: "BenchmarkWorkers/h2/2000-500ms"},
		{group: "transport", name: "2,000 workers, coordinator CPU of a beat, us", pkg: pkg, benchtime: "1x", unit: "cpu-us/beat", reach: 0.75,
			ours: "BenchmarkWorkers/h2/2000-500ms", base: "BenchmarkWorkers/raw/2000-500ms"},
	}
}
