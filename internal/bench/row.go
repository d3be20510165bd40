package main

import (
	"slices"
	"strings"
)

// row is one promise.
type row struct {
	group string // the table's section, such as "storage"
	name  string // what is measured, for people
	pkg   string // directory of the package, such as "pkg/storage"

	ours string // benchmark, with its sub-benchmark: "BenchmarkPut/1-writer/ours"
	base string // the baseline's; the same as ours where one benchmark reports both; empty for an absolute limit

	unit     string  // of ours as `go test` prints it; empty: ns/op
	baseUnit string  // of the baseline, where it differs
	limit    float64 // in place of a baseline: the figure itself, in unit
	reach    float64 // the ratio to reach; for a limit usually 1

	benchtime string // as for go test; empty: 1s. A fixed count such as 2000x gives both sides the same work
}

// rows is every row of every package, in the order of the table.
func rows() []row {
	return slices.Concat(
		storageRows(),
		objectRows(),
		queueRows(),
		transportRows(),
		inProcessRows(),
		sidecarRows(),
		wholeRows(),
	)
}

func (r *row) units() (ours, base string) {
	ours = r.unit
	if ours == "" {
		ours = "ns/op"
	}
	base = r.baseUnit
	if base == "" {
		base = ours
	}
	return ours, base
}

// moreIsBetter reports whether a larger figure of a unit is better: rates are,
// times and sizes are not.
func moreIsBetter(unit string) bool { return strings.HasSuffix(unit, "/s") }

// ratio is how good ours is relative to the baseline.
func ratio(unit string, ours, base float64) float64 {
	if moreIsBetter(unit) {
		return ours / base
	}
	return base / ours
}

// benchmarks returns the distinct benchmarks that the row needs.
func (r *row) benchmarks() []string {
	if r.base == "" || r.base == r.ours {
		return []string{r.ours}
	}
	return []string{r.ours, r.base}
}

// pattern is the -test.bench expression that selects exactly one benchmark.
func pattern(benchmark string) string {
	parts := strings.Split(benchmark, "/")
	for i, p := range parts {
		parts[i] = "^" + quote(p) + "$"
	}
	return strings.Join(parts, "/")
}

// quote escapes what a regular expression would read as an operator.
func quote(s string) string {
	var b strings.Builder
	for _, c := range s {
		if strings.ContainsRune(`\.+*?()|[]{}^$`, c) {
			b.WriteByte('\\')
		}
		b.WriteRune(c)
	}
	return b.String()
}
