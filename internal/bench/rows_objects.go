package main

// objectRows are measured against the same protocol written plainly with package
// os; a stream against plain writes and one sync, without any hash.
func objectRows() []row {
	const pkg = "pkg/cloudlocal"
	return []row{
		{group: "objects", name: "put 4 KiB, synced, 1 writer", pkg: pkg, benchtime: "640x", unit: "objects/s", reach: 0.9,
			ours: "BenchmarkObjectPut/1-writers/ours", base: "BenchmarkObjectPut/1-writers/hand"},
		{group: "objects", name: "put 4 KiB, synced, 16 writers", pkg: pkg, benchtime: "1920x", unit: "objects/s", reach: 0.9,
			ours: "BenchmarkObjectPut/16-writers/ours", base: "BenchmarkObjectPut/16-writers/hand"},
		{group: "objects", name: "64 at a time, against plain single puts", pkg: pkg, benchtime: "1280x", unit: "objects/s", reach: 3,
			ours: "BenchmarkObjectPutMany", base: "BenchmarkObjectPut/1-writers/hand"},
		{group: "objects", name: "64 at a time, against our single puts", pkg: pkg, benchtime: "1280x", unit: "objects/s", reach: 3,
			ours: "BenchmarkObjectPutMany", base: "BenchmarkObjectPut/1-writers/ours"},
		{group: "objects", name: "put 256 MiB, hashed and synced", pkg: pkg, benchtime: "5x", unit: "MB/s", reach: 0.9,
			ours: "BenchmarkObjectStream/ours", base: "BenchmarkObjectStream/hand"},
		{group: "objects", name: "heap while 256 MiB are put", pkg: pkg, benchtime: "3x", unit: "peak-B", limit: 8 << 20, reach: 1,
			ours: "BenchmarkObjectStream/ours"},
		{group: "objects", name: "get 256 MiB, verified", pkg: pkg, benchtime: "5x", unit: "MB/s", reach: 0.9,
			ours: "BenchmarkObjectGet/ours", base: "BenchmarkObjectGet/hand"},
		// A look-up may cost three times one call of the system.
		{group: "objects", name: "exists, in 100k objects", pkg: pkg, benchtime: "100000x", unit: "exists-ns", baseUnit: "os-stat-ns", reach: 0.33,
			ours: "BenchmarkObjectTree", base: "BenchmarkObjectTree"},
		{group: "objects", name: "stat, in 100k objects", pkg: pkg, benchtime: "100000x", unit: "stat-ns", baseUnit: "hand-stat-ns", reach: 0.77,
			ours: "BenchmarkObjectTree", base: "BenchmarkObjectTree"},
	}
}
