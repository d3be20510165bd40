package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestRowsNameBenchmarksThatExist keeps the table and the packages together.
func TestRowsNameBenchmarksThatExist(t *testing.T) {
	source := map[string]string{}
	for _, r := range rows() {
		if _, ok := source[r.pkg]; !ok {
			files, err := filepath.Glob(filepath.Join("..", "..", r.pkg, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				b, err := os.ReadFile(f)
				if err != nil {
					t.Fatal(err)
				}
				source[r.pkg] += string(b)
			}
		}
		for _, b := range r.benchmarks() {
			if name, _, _ := strings.Cut(b, "/"); !strings.Contains(source[r.pkg], "func "+name+"(b *testing.B)") {
				t.Errorf("%s: %s has no %s", r.name, r.pkg, name)
			}
		}
		if r.reach <= 0 || (r.base == "") == (r.limit == 0) {
			t.Errorf("%s: give a ratio to reach, and either a baseline or a limit", r.name)
		}
	}
}

func TestParse(t *testing.T) {
	out := []byte("goos: linux\nBenchmarkPut/1-writer/ours-2   4000   312345 ns/op   17.5 group   0 B/op\nPASS\n")
	got := parse(out, "BenchmarkPut/1-writer/ours")
	if got["ns/op"] != 312345 || got["group"] != 17.5 {
		t.Errorf("parsed %v", got)
	}
	if got := parse(out, "BenchmarkPut/1-writer"); got != nil {
		t.Errorf("another benchmark's line was taken: %v", got)
	}
}

func TestRatioIsGoodness(t *testing.T) {
	if r := ratio("ns/op", 200, 100); r != 0.5 {
		t.Errorf("twice the time is %v, want 0.5", r)
	}
	if r := ratio("keys/s", 200, 100); r != 2 {
		t.Errorf("twice the rate is %v, want 2", r)
	}
	if m := median([]float64{9, 1, 5, 3}); m != 4 {
		t.Errorf("the median is %v, want 4", m)
	}
}

func TestTableMarksWhatIsShort(t *testing.T) {
	good := row{group: "storage", name: "put", ours: "A", base: "B", reach: 0.8}
	bad := row{group: "storage", name: "heap", ours: "C", unit: "peak-B", limit: 1 << 20, reach: 1}
	var results []result
	for _, r := range []row{good, bad} {
		res, err := judge(r, map[string]figures{
			"A": {"ns/op": {1000, 1100, 5000}}, "B": {"ns/op": {1000, 1000, 1000}}, "C": {"peak-B": {2 << 20}},
		})
		if err != nil {
			t.Fatal(err)
		}
		results = append(results, res)
	}
	var b strings.Builder
	if err := printTable(&b, results); err != nil {
		t.Fatal(err)
	}
	want := `row            ours    baseline       ratio  to reach  
storage: put   909k/s  1M/s           0.91   0.80      ok
storage: heap  2 MiB   1 MiB (limit)  0.50   1.00      SHORT

2 rows, 1 short
`
	if b.String() != want {
		t.Errorf("the table is\n%s\nwant\n%s", b.String(), want)
	}
	if _, err := judge(good, nil); err == nil {
		t.Error("a row without figures was judged")
	}
}
