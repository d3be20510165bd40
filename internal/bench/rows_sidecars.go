package main

// sidecarRows are calls of plugins in processes of their own: framed Python beside
// bare messages to a bare loop, and gRPC beside go-plugin's own client.
func sidecarRows() []row {
	const pkg = "pkg/pluginhost"
	return []row{
		{group: "plugins", name: "framed python sidecar, 1 caller", pkg: pkg, unit: "calls/s", reach: 0.8,
			ours: "BenchmarkFramed/callers=1/call", base: "BenchmarkFramed/callers=1/baseline=raw"},
		{group: "plugins", name: "framed python sidecar, 64 callers", pkg: pkg, unit: "calls/s", reach: 0.8,
			ours: "BenchmarkFramed/callers=64/call", base: "BenchmarkFramed/callers=64/baseline=raw"},
		{group: "plugins", name: "grpc go sidecar, 1 caller", pkg: pkg, unit: "calls/s", reach: 0.9,
			ours: "BenchmarkGRPC/go/callers=1/call", base: "BenchmarkGRPC/go/callers=1/baseline=go-plugin"},
		{group: "plugins", name: "grpc go sidecar, 64 callers", pkg: pkg, unit: "calls/s", reach: 0.9,
			ours: "BenchmarkGRPC/go/callers=64/call", base: "BenchmarkGRPC/go/callers=64/baseline=go-plugin"},
		{group: "plugins", name: "grpc python sidecar, 1 caller", pkg: pkg, unit: "calls/s", reach: 0.9,
			ours: "BenchmarkGRPC/python/callers=1/call", base: "BenchmarkGRPC/python/callers=1/baseline=grpcio"},
		{group: "plugins", name: "grpc python sidecar, 64 callers", pkg: pkg, unit: "calls/s", reach: 0.9,
			ours: "BenchmarkGRPC/python/callers=64/call", base: "BenchmarkGRPC/python/callers=64/baseline=grpcio"},
		// An idle plugin leaves within 100 ms.
		{group: "plugins", name: "framed sidecar, stop", pkg: pkg, unit: "stop-ms", limit: 100, reach: 1,
			ours: "BenchmarkFramed/start-and-stop", benchtime: "10x"},
	}
}
