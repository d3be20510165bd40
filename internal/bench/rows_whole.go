package main

// wholeRows are the promises of the programs together: the main job beside one Python
// process that syncs each result, and what a process costs.
func wholeRows() []row {
	const pkg = "internal/mainjob"
	return []row{
		{group: "whole", name: "score all completions, 2 workers", pkg: pkg, unit: "items/s", reach: 1,
			ours: "BenchmarkScore/two-workers", base: "BenchmarkScore/one-process", benchtime: "1x"},
		{group: "whole", name: "score all completions, a worker killed halfway", pkg: pkg, unit: "items/s", reach: 1,
			ours: "BenchmarkScore/two-workers-one-killed", base: "BenchmarkScore/one-process", benchtime: "1x"},
		// Two slots for each worker, beside the plugin called on two threads by hand.
		{group: "whole", name: "10 ms items, 1 worker", pkg: pkg, unit: "items/s", reach: 0.9,
			ours: "BenchmarkWorkers/1/ours", base: "BenchmarkWorkers/1/hand", benchtime: "1x"},
		{group: "whole", name: "10 ms items, 2 workers", pkg: pkg, unit: "items/s", reach: 0.9,
			ours: "BenchmarkWorkers/2/ours", base: "BenchmarkWorkers/2/hand", benchtime: "1x"},
		{group: "whole", name: "10 ms items, 4 workers", pkg: pkg, unit: "items/s", reach: 0.9,
			ours: "BenchmarkWorkers/4/ours", base: "BenchmarkWorkers/4/hand", benchtime: "1x"},
		{group: "whole", name: "coordinator start to serving", pkg: pkg, unit: "start-ms", limit: 50, reach: 1,
			ours: "BenchmarkCoordinatorStart", benchtime: "10x"},
		{group: "whole", name: "idle coordinator, resident", pkg: pkg, unit: "coordinator-B", limit: 30 << 20, reach: 1,
			ours: "BenchmarkIdleMemory", benchtime: "1x"},
		{group: "whole", name: "idle worker, resident", pkg: pkg, unit: "worker-B", limit: 30 << 20, reach: 1,
			ours: "BenchmarkIdleMemory", benchtime: "1x"},
	}
}
