package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// figures are the values of one benchmark by unit, one for each round.
type figures map[string][]float64

// runner builds and runs benchmarks.
type runner struct {
	root     string // of the repository
	tmp      string // for built test binaries
	progress io.Writer
	binaries map[string]string // by package directory
}

// binary builds the package's test binary, once.
func (r *runner) binary(ctx context.Context, pkg string) (string, error) {
	if bin, ok := r.binaries[pkg]; ok {
		return bin, nil
	}
	bin := filepath.Join(r.tmp, strings.ReplaceAll(pkg, "/", "_")+".test")
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", bin, "./"+pkg)
	cmd.Dir = r.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the benchmarks of %s: %w\n%s", pkg, err, out)
	}
	r.binaries[pkg] = bin
	return bin, nil
}

// once runs one benchmark in a process of its own.
func (r *runner) once(ctx context.Context, pkg, benchmark, benchtime string) (map[string]float64, error) {
	bin, err := r.binary(ctx, pkg)
	if err != nil {
		return nil, err
	}
	if benchtime == "" {
		benchtime = "1s"
	}
	cmd := exec.CommandContext(ctx, bin, "-test.run=^$", "-test.bench="+pattern(benchmark), "-test.benchtime="+benchtime, "-test.timeout=10m")
	cmd.Dir = filepath.Join(r.root, pkg)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w\n%s", benchmark, pkg, err, out)
	}
	values := parse(out, benchmark)
	if values == nil {
		return nil, fmt.Errorf("%s of %s printed no result:\n%s", benchmark, pkg, out)
	}
	return values, nil
}

// measure lets the sides of a row take turns and returns every figure by
// benchmark.
func (r *runner) measure(ctx context.Context, row *row, rounds int) (map[string]figures, error) {
	sides := row.benchmarks()
	all := map[string]figures{}
	for round := range rounds {
		for _, side := range sides {
			fmt.Fprintf(r.progress, "\r\x1b[K%s, round %d of %d: %s", row.name, round+1, rounds, side)
			values, err := r.once(ctx, row.pkg, side, row.benchtime)
			if err != nil {
				return nil, err
			}
			if all[side] == nil {
				all[side] = figures{}
			}
			for unit, v := range values {
				all[side][unit] = append(all[side][unit], v)
			}
		}
		slices.Reverse(sides) // whoever came second comes first
	}
	fmt.Fprint(r.progress, "\r\x1b[K")
	return all, nil
}

// parse reads the result line of one benchmark, nil when there is none. A line is
// the name with the number of processors, the count, and pairs of value and unit.
func parse(out []byte, benchmark string) map[string]float64 {
	sc := bufio.NewScanner(bytes.NewReader(out))
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) < 4 || f[0] != benchmark && !isNumbered(f[0], benchmark) {
			continue
		}
		values := map[string]float64{}
		for i := 2; i+1 < len(f); i += 2 {
			if v, err := strconv.ParseFloat(f[i], 64); err == nil {
				values[f[i+1]] = v
			}
		}
		return values
	}
	return nil
}

// isNumbered reports whether name is the benchmark's with the suffix that tells
// the number of processors.
func isNumbered(name, benchmark string) bool {
	rest, ok := strings.CutPrefix(name, benchmark+"-")
	if !ok {
		return false
	}
	_, err := strconv.Atoi(rest)
	return err == nil
}

// median returns the middle of the values, 0 without any.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	v := slices.Sorted(slices.Values(values))
	if n := len(v); n%2 == 0 {
		return (v[n/2-1] + v[n/2]) / 2
	}
	return v[len(v)/2]
}

// newRunner makes a runner for the repository at root. Its temporary directory is
// removed by close.
func newRunner(root string, progress io.Writer) (r *runner, closeIt func() error, err error) {
	tmp, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, nil, err
	}
	r = &runner{root: root, tmp: tmp, progress: progress, binaries: map[string]string{}}
	return r, func() error { return os.RemoveAll(tmp) }, nil
}
