package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"
)

// limit bounds one page.
const limit = time.Hour

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintf(os.Stderr, "pages: %v\n", err)
		os.Exit(1)
	}
}

// run carries out the pages named, one after the other.
func run(args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("pages", flag.ContinueOnError)
	root := flags.String("root", ".", "the repository")
	programs := flags.String("programs", "", "`directory` with the programs (default: bin of the repository, as the pages build it)")
	all := flags.Bool("all", false, "run the slow blocks too")
	var skip []string
	flags.Func("skip", "leave out this `command`; may be repeated", func(command string) error {
		skip = append(skip, command)
		return nil
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	dir, err := filepath.Abs(*root)
	if err != nil {
		return err
	}
	files := flags.Args()
	if len(files) == 0 {
		if files, err = Files(dir); err != nil {
			return err
		}
	}
	scratch, err := os.MkdirTemp("", "pages")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	r := &Runner{Root: dir, Programs: *programs, Scratch: scratch, All: *all, Skip: skip, Log: func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }}
	for _, file := range files {
		page, err := Load(dir, file)
		if err != nil {
			return err
		}
		if !page.runs() {
			continue
		}
		begin := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		err = r.Run(ctx, page)
		cancel()
		if err != nil {
			return err
		}
		r.Log("%-32s as shown, %.1f s", file, time.Since(begin).Seconds())
	}
	return nil
}

// Files lists the documents of the repository, the README and the tutorial first.
func Files(root string) ([]string, error) {
	files := []string{"README.md", "docs/first-plugin.md"}
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "examples/*/*.md", "examples/*/*/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		for _, name := range found {
			name, err := filepath.Rel(root, name)
			if err != nil {
				return nil, err
			}
			if name != files[0] && name != files[1] {
				files = append(files, name)
			}
		}
	}
	return files, nil
}

// Load reads a document of the repository.
func Load(root, file string) (*Page, error) {
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		return nil, err
	}
	return Parse(file, string(text))
}

// address is one of the loopback network that nobody else is likely to use, below
// the ports that the kernel hands out.
func address() string {
	return fmt.Sprintf("127.%d.%d.%d:%d", 1+rand.IntN(250), rand.IntN(256), 1+rand.IntN(250), 20000+rand.IntN(10000))
}
