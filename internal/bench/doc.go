// Command bench measures the rows that this project promises, each beside its
// baseline in the same run, and prints one table.
//
//	go run ./internal/bench [-run REGEXP] [-rounds N]
//
// A row names one Go benchmark that measures ours and one that measures the
// baseline, usually the raw library used by hand. Each package's test binary is
// built once; then the two sides take turns, one process each, for a number of
// rounds, and the medians are compared. Taking turns is what makes a ratio mean
// something on a machine that others use too; the absolute figures do not travel.
//
// The ratio is how good ours is relative to the baseline: 0.9 is a tenth slower, 2
// twice as fast, whether the unit counts time or work. A row short of its ratio is
// marked, and the exit status is 0 all the same: this is a measurement, not a test.
//
// Rows of a package lie in a file of their own, rows_<group>.go.
package main
