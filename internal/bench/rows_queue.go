package main

// queueRows are measured against the same number of durable steps on bare bbolt,
// with one goroutine that commits for all who wait. The last two compare the work
// channel with the queue alone.
func queueRows() []row {
	const pkg, wire = "pkg/cloudlocal", "pkg/transport"
	return []row{
		{group: "queue", name: "durable enqueue, 1 producer", pkg: pkg, benchtime: "3000x", reach: 0.85,
			ours: "BenchmarkEnqueue/1-producers/ours", base: "BenchmarkEnqueue/1-producers/hand"},
		{group: "queue", name: "durable enqueue, 64 producers", pkg: pkg, benchtime: "40000x", reach: 0.5,
			ours: "BenchmarkEnqueue/64-producers/ours", base: "BenchmarkEnqueue/64-producers/hand"},
		{group: "queue", name: "enqueue in batches of 100", pkg: pkg, benchtime: "1000x", unit: "items/s", reach: 0.5,
			ours: "BenchmarkEnqueueBatch/ours", base: "BenchmarkEnqueueBatch/hand"},
		{group: "queue", name: "enqueue, lease and ack, 64 workers", pkg: pkg, benchtime: "30000x", reach: 0.5,
			ours: "BenchmarkCycle/ours", base: "BenchmarkCycle/hand"},
		{group: "queue", name: "work channel beside the queue's cycle", pkg: wire, benchtime: "30000x", unit: "items/s", reach: 0.6,
			ours: "BenchmarkWork/h2/ours", base: "BenchmarkWork/cycle"},
		{group: "queue", name: "work channel over QUIC beside the queue's cycle", pkg: wire, benchtime: "30000x", unit: "items/s", reach: 0.6,
			ours: "BenchmarkWork/quic/ours", base: "BenchmarkWork/cycle"},
	}
}
