package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// result is one measured row.
type result struct {
	row
	ours, base float64 // medians; base is the limit where there is no baseline
	ratio      float64
}

// judge compares the medians of what was measured.
func judge(r row, all map[string]figures) (result, error) {
	oursUnit, baseUnit := r.units()
	res := result{row: r, ours: median(all[r.ours][oursUnit]), base: r.limit}
	if r.base != "" {
		res.base = median(all[r.base][baseUnit])
	}
	if res.ours == 0 || res.base == 0 {
		return res, fmt.Errorf("%s: %s gave no figure in %s and %s", r.name, r.ours, oursUnit, baseUnit)
	}
	res.ratio = ratio(oursUnit, res.ours, res.base)
	return res, nil
}

// short reports whether the row misses its ratio.
func (r *result) short() bool { return r.ratio < r.reach }

// printTable writes the results, one line each, and how many are short.
func printTable(w io.Writer, results []result) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "row\tours\tbaseline\tratio\tto reach\t")
	short := 0
	for _, r := range results {
		oursUnit, baseUnit := r.units()
		verdict := "ok"
		if r.short() {
			verdict = "SHORT"
			short++
		}
		what := human(r.base, baseUnit)
		if r.row.base == "" {
			what += " (limit)"
		}
		fmt.Fprintf(tw, "%s: %s\t%s\t%s\t%.2f\t%.2f\t%s\n", r.group, r.name, human(r.ours, oursUnit), what, r.ratio, r.reach, verdict)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d rows, %d short\n", len(results), short)
	return err
}

// human writes a figure with three digits and the largest fitting unit. Times of
// one operation are turned into rates.
func human(v float64, unit string) string {
	switch {
	case unit == "ns/op" && v >= 1e8:
		return fmt.Sprintf("%.3g ms", v/1e6)
	case unit == "ns/op":
		return scaled(1e9/v, 1000, []string{"", "k", "M", "G"}) + "/s"
	case strings.HasSuffix(unit, "ns"):
		return scaled(v, 1000, []string{" ns", " us", " ms", " s"})
	case unit == "B" || strings.HasSuffix(unit, "-B"):
		return scaled(v, 1024, []string{" B", " KiB", " MiB", " GiB"})
	case strings.HasSuffix(unit, "/s"):
		return scaled(v, 1000, []string{" ", " k", " M", " G"}) + unit
	}
	return fmt.Sprintf("%.3g %s", v, unit)
}

func scaled(v, step float64, units []string) string {
	i := 0
	for ; v >= step && i < len(units)-1; i++ {
		v /= step
	}
	if v >= 100 {
		return fmt.Sprintf("%.0f%s", v, units[i])
	}
	return fmt.Sprintf("%.3g%s", v, units[i])
}
