package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// root is the repository.
const root = "../.."

// built says that programs has made a directory, which TestMain removes.
var built bool

// programs builds the programs once, as users have them: without the race detector.
var programs = sync.OnceValues(func() (string, error) {
	built = true
	dir, err := os.MkdirTemp("", "pages")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/", root+"/cmd/...").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if built {
		dir, _ := programs()
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// pages reads every document of the repository.
func pages(t *testing.T) []*Page {
	t.Helper()
	files, err := Files(root)
	if err != nil {
		t.Fatal(err)
	}
	var all []*Page
	for _, file := range files {
		page, err := Load(root, file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page)
	}
	return all
}

func runner(t *testing.T) *Runner {
	t.Helper()
	dir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	// Sockets below a test's own directory would have names too long for the kernel.
	scratch, err := os.MkdirTemp("", "pages")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(scratch); err != nil {
			t.Error(err)
		}
	})
	return &Runner{Root: dir, Programs: scratch, Scratch: scratch, Log: t.Logf}
}

// TestPages types what the documentation shows, and wants to see what it shows.
func TestPages(t *testing.T) {
	bin, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	count, topics := 0, documented(t)
	for _, page := range pages(t) {
		if !page.runs() {
			continue
		}
		count++
		t.Run(strings.ReplaceAll(page.Path, "/", "."), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			r := runner(t)
			r.Programs = bin
			r.Look = func(dir string) { lookAtEvents(t, dir, topics) }
			if err := r.Run(ctx, page); err != nil {
				t.Error(err)
			}
		})
	}
	if count < 2 {
		t.Errorf("only %d pages have commands", count)
	}
}

func TestARunnerSeesWhatDiffers(t *testing.T) {
	for name, c := range map[string]struct{ page, want string }{
		"as shown":           {"$ echo one; echo two\none\ntwo\n$ cd /; false\n$ echo $?\n1\n$ pwd\n/", ""},
		"another line":       {"$ echo one\ntwo", "prints\none\nthe page shows\ntwo"},
		"a line too few":     {"$ echo one", "the page shows"},
		"a line too many":    {"$ true\none", "the page shows"},
		"a failure":          {"$ false", "status 1"},
		"lines between":      {"$ seq 9\n1\n...\n9", ""},
		"no such end":        {"$ seq 9\n1\n...\n8", "the page shows"},
		"form":               {"$ echo took 1.25 s, 17 left\ntook 3 s, 17 left", ""},
		"other numbers":      {"$ echo took 1.25 s, 17 left\ntook 3 s, 18 left", "the page shows"},
		"lines of a command": {"$ cat <<END\n> a\n> \n> b\n> END\na\n\nb", ""},
		"no end of line":     {"$ printf 1\n1\n$ printf 2\n2", ""},
		"a shell that ends":  {"$ exit 3", "the shell ended"},
		"address":            {"$ echo $ROLLOUT_COORDINATOR_ADDR\n127.0.0.1:50051", ""},
		"state":              {"$ x=4\n$ export y=5\n$ echo $x$(bash -c 'echo $y')\n45", ""},
		"two shells":         {"$ mkdir a b\na$ pwd | grep -o './a$'\ne/a\nb$ pwd | grep -o './b$'\ne/b", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			page, err := Parse("p.md", "```console\n"+c.page+"\n```\n")
			if err != nil {
				t.Fatal(err)
			}
			err = runner(t).Run(t.Context(), page)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}

const lively = "<!-- run: keeps running -->\n```console\n$ trap 'echo bye; exit' INT; echo up; while :; do sleep 1; done\nup\n```\n"

func TestAProgramKeepsRunning(t *testing.T) {
	for name, c := range map[string]struct{ page, want string }{
		"interrupted":      {lively + "```console\n$ echo meanwhile\nmeanwhile\n^C\nbye\n```\n", ""},
		"other last words": {lively + "```console\n^C\nfarewell\n```\n", "the page shows\nfarewell"},
		"ended by itself":  {strings.Replace(lively, "up\n`", "down\n`", 1), "the page shows\ndown"},
		"left to the end":  {lively, ""},
		"nothing runs":     {"```console\n^C\n```\n", "nothing was left running"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "ended by itself" {
				c.page = strings.Replace(c.page, "while :; do sleep 1; done", "true", 1)
			}
			page, err := Parse("p.md", c.page)
			if err != nil {
				t.Fatal(err)
			}
			err = runner(t).Run(t.Context(), page)
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("want %q, got %v", c.want, err)
			}
		})
	}
}

func TestPagesThatCannotBeRead(t *testing.T) {
	for text, want := range map[string]string{
		"```console\n$ true\n":                                "no end",
		"<!-- run: quickly -->\n":                             `"quickly" is not known`,
		"<!-- page: elsewhere -->\n":                          "in the tree",
		"```console\nhello\n```\n":                            "without a prompt",
		"<!-- run: keeps running -->\n```console\n$ x\n```\n": "shows by what one sees",
	} {
		page, err := Parse("p.md", text)
		if err == nil {
			err = runner(t).Run(t.Context(), page)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: want %q, got %v", text, want, err)
		}
	}
}
