package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// shown is the address on the pages, and others are what a page about several hosts
// calls it; while they run another one stands for all.
const shown = "127.0.0.1:50051"

var others = []string{"0.0.0.0:50051", "hub.example.net:50051"}

// Runner says where and how pages run.
type Runner struct {
	Root     string           // the repository
	Programs string           // directory with coordinator, rollout and worker; "": bin of the repository
	Scratch  string           // directories of the pages are made here
	All      bool             // slow blocks too
	Skip     []string         // commands that are left out
	Look     func(dir string) // at what a page leaves behind; may be nil
	Log      func(format string, args ...any)
}

// session is a page while it runs.
type session struct {
	*Runner
	page    *Page
	dir     string // of the page
	scratch string // for the commands
	addr    string // stands for the address shown
	env     []string
	shells  map[string]*shell
	dirs    map[string]string // where each shell is
	running map[string]*background
	started []*background // in this order
}

// background is a program that the page left running.
type background struct {
	*process
	seen int // bytes of its output that a block has shown
}

// Run carries out a page and returns where it differs from what happens.
func (r *Runner) Run(ctx context.Context, page *Page) (err error) {
	scratch, err := os.MkdirTemp(r.Scratch, "page")
	if err != nil {
		return err
	}
	s := &session{Runner: r, page: page, scratch: scratch, addr: address(), shells: map[string]*shell{}, dirs: map[string]string{}, running: map[string]*background{}}
	defer func() { err = errors.Join(err, s.end()) }()
	if err := s.place(); err != nil {
		return err
	}
	s.env = s.environment()
	for _, b := range page.Blocks {
		if b.Lang != "console" && b.Lang != "setup" || !s.here(b) {
			continue
		}
		steps, err := b.Steps()
		if err != nil {
			return fmt.Errorf("%s: %w", page.Path, err)
		}
		if err := s.block(ctx, b, steps); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) block(ctx context.Context, b Block, steps []Step) error {
	for i, step := range steps {
		at := fmt.Sprintf("%s:%d", s.page.Path, step.Line)
		if slices.Contains(s.Skip, step.Command) {
			s.Log("NOT RUN: %s: %s", at, step.Command)
			continue
		}
		want := newPattern(expected(step.Want), b.Numbers)
		var err error
		switch {
		case step.Interrupt:
			err = s.interrupt(step, want)
		case b.Running:
			err = s.keep(ctx, step, want)
		default:
			asked := i+1 < len(steps) && steps[i+1].Command == "echo $?"
			err = s.step(ctx, step, want, asked)
		}
		if err != nil {
			return fmt.Errorf("%s: %s: %w", at, cmp.Or(step.Command, "^C"), err)
		}
	}
	return nil
}

// shell returns the shell of a name, which begins in the directory of that name.
func (s *session) shell(name string) (*shell, error) {
	if sh := s.shells[name]; sh != nil {
		return sh, nil
	}
	dir := filepath.Join(s.dir, name)
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		dir = s.dir
	}
	scratch := filepath.Join(s.scratch, "shell-"+name)
	if err := os.MkdirAll(scratch, 0o700); err != nil {
		return nil, err
	}
	sh, err := newShell(dir, scratch, s.env)
	if err != nil {
		return nil, err
	}
	s.shells[name], s.dirs[name] = sh, dir
	return sh, nil
}

// typed is a command with the address that stands for the one shown. Builds and tests
// of the tree are not to see it.
func (s *session) typed(command string) string {
	for _, name := range append(others, shown) {
		command = strings.ReplaceAll(command, name, s.addr)
	}
	if word, _, _ := strings.Cut(command, " "); word == "make" || word == "go" {
		command = "env -u ROLLOUT_TRANSPORT_LISTEN_ADDR -u ROLLOUT_TRANSPORT_HEARTBEAT_INTERVAL -u ROLLOUT_COORDINATOR_ADDR " + command
	}
	return command
}

// printed is output as the page would show it.
func (s *session) printed(text string) string { return strings.ReplaceAll(text, s.addr, shown) }

// expected is what a page shows, with one name for the address.
func expected(want []string) []string {
	want = slices.Clone(want)
	for i := range want {
		for _, name := range others {
			want[i] = strings.ReplaceAll(want[i], name, shown)
		}
	}
	return want
}

func (s *session) step(ctx context.Context, step Step, want *pattern, asked bool) error {
	sh, err := s.shell(step.Shell)
	if err != nil {
		return err
	}
	text, status, dir, err := sh.run(ctx, s.typed(step.Command))
	if err != nil {
		return err
	}
	s.dirs[step.Shell] = dir
	text = s.printed(text)
	if status != 0 && !asked {
		return fmt.Errorf("status %d:\n%s", status, text)
	}
	if !want.matches(text) {
		return differs(step, text)
	}
	return nil
}

func differs(step Step, text string) error {
	return fmt.Errorf("prints\n%s\nthe page shows\n%s", strings.TrimRight(text, "\n"), strings.Join(step.Want, "\n"))
}

// keep starts a program and waits until what the page shows has been printed.
func (s *session) keep(ctx context.Context, step Step, want *pattern) error {
	if _, err := s.shell(step.Shell); err != nil {
		return err
	}
	if old := s.running[step.Shell]; old != nil {
		if err := old.interrupt(); err != nil {
			return err
		}
	}
	p, err := start(s.dirs[step.Shell], s.env, nil, "bash", "--norc", "--noprofile", "-c", s.typed(step.Command))
	if err != nil {
		return err
	}
	bg := &background{process: p}
	s.running[step.Shell] = bg
	s.started = append(s.started, bg)
	for {
		text, changed := p.out.from(0)
		if want.begins(s.printed(text)) {
			bg.seen = len(text)
			return nil
		}
		select {
		case <-changed:
		case <-p.done:
			if text := p.all(); !want.begins(s.printed(text)) {
				return fmt.Errorf("ended; %w", differs(step, text))
			}
			return nil
		case <-ctx.Done():
			return fmt.Errorf("%w; %w", context.Cause(ctx), differs(step, text))
		}
	}
}

// interrupt presses Ctrl-C and compares what the program prints from its block on.
func (s *session) interrupt(step Step, want *pattern) error {
	bg := s.running[step.Shell]
	if bg == nil {
		return errors.New("nothing was left running")
	}
	delete(s.running, step.Shell)
	err := bg.interrupt()
	text, _ := bg.out.from(bg.seen)
	if text = s.printed(text); err == nil && !want.matches(text) {
		err = differs(step, text)
	}
	return errors.Join(err, bg.kill())
}

// end ends what the page left: the programs in order, those that were started last
// first, then the shells with whatever they have in the background.
func (s *session) end() error {
	var errs []error
	for _, bg := range slices.Backward(s.started) {
		errs = append(errs, bg.interrupt(), bg.kill())
	}
	for _, sh := range s.shells {
		errs = append(errs, sh.close())
	}
	if s.Look != nil {
		s.Look(s.dir)
	}
	if s.dir != s.Root {
		errs = append(errs, os.RemoveAll(s.dir))
	}
	return errors.Join(append(errs, os.RemoveAll(s.scratch))...)
}

// runs reports whether a page has commands to run.
func (p *Page) runs() bool {
	return slices.ContainsFunc(p.Blocks, func(b Block) bool { return b.Lang == "console" })
}
