package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"syscall"

	"golang.org/x/term"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run measures the rows that the arguments select and prints the table.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	selected := flags.String("run", "", "measure the rows whose \"group: name\" matches this regular `expression`")
	rounds := flags.Int("rounds", 5, "how often the two sides of a row take turns")
	if err := flags.Parse(args); err != nil {
		return err
	}
	match, err := regexp.Compile(*selected)
	if err != nil {
		return err
	}
	if *rounds < 1 || flags.NArg() > 0 {
		return fmt.Errorf("usage: bench [-run expression] [-rounds n], n at least 1")
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	progress := io.Discard
	if f, ok := stderr.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		progress = stderr
	}
	r, closeIt, err := newRunner(root, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeIt()) }()
	fmt.Fprintf(stdout, "%s, %d processors, medians of %d rounds\n\n", runtime.Version(), runtime.NumCPU(), *rounds)
	var results []result
	for _, row := range rows() {
		if !match.MatchString(row.group + ": " + row.name) {
			continue
		}
		all, err := r.measure(ctx, &row, *rounds)
		if err != nil {
			return err
		}
		res, err := judge(row, all)
		if err != nil {
			return err
		}
		results = append(results, res)
	}
	return printTable(stdout, results)
}
