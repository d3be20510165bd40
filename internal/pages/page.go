package main

import (
	"fmt"
	"regexp"
	"strings"
)

// Block is one fenced block of a page, or a hidden setup.
type Block struct {
	Line  int      // of the opening fence, from 1
	Lang  string   // the word behind the fence; "setup" for a hidden one
	Lines []string // without the fences

	Running bool     // the command goes on while the page does
	Numbers bool     // numbers are compared by their form
	Slow    bool     // too long for every test run
	Needs   []string // "root" or programs
}

// Page is a document with its fenced blocks.
type Page struct {
	Path   string
	InTree bool // runs in the repository instead of an empty directory
	Blocks []Block
}

// Step is one command of a console block and what it prints.
type Step struct {
	Line      int    // of the prompt, from 1
	Shell     string // the name in front of the prompt
	Command   string
	Interrupt bool // stands for Ctrl-C; Command is empty
	Want      []string
}

var (
	runComment  = regexp.MustCompile(`^<!-- run: (.*) -->$`)
	pageComment = regexp.MustCompile(`^<!-- page: (.*) -->$`)
	prompt      = regexp.MustCompile(`^([a-z][a-z0-9]*)?\$ (.*)$`)
)

// generated begins the line below which a test writes the page.
const generated = "<!-- From here on the text comes from"

// Parse reads a page, as far as people write it.
func Parse(path, text string) (*Page, error) {
	p := &Page{Path: path}
	var (
		open   *Block
		next   Block  // options for the block that follows
		end    string // what closes the open one
		indent string // before its opening fence, as in a list
	)
	for i, line := range strings.Split(text, "\n") {
		trimmed := strings.TrimSpace(line)
		switch {
		case open != nil && trimmed == end:
			p.Blocks = append(p.Blocks, *open)
			open = nil
		case open != nil:
			open.Lines = append(open.Lines, strings.TrimPrefix(line, indent))
		case strings.HasPrefix(trimmed, "```"):
			block := next
			block.Line, block.Lang = i+1, strings.TrimPrefix(trimmed, "```")
			open, next, end = &block, Block{}, "```"
			indent, _, _ = strings.Cut(line, "`")
		case strings.HasPrefix(trimmed, generated):
			return p, nil
		case trimmed == "<!-- setup":
			indent = ""
			open, end = &Block{Line: i + 1, Lang: "setup"}, "-->"
		case runComment.MatchString(trimmed):
			if err := next.options(runComment.FindStringSubmatch(trimmed)[1]); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, i+1, err)
			}
		case pageComment.MatchString(trimmed):
			if what := pageComment.FindStringSubmatch(trimmed)[1]; what != "in the tree" {
				return nil, fmt.Errorf("%s:%d: a page cannot be %q; only: in the tree", path, i+1, what)
			}
			p.InTree = true
		}
	}
	if open != nil {
		return nil, fmt.Errorf("%s:%d: the block has no end", path, open.Line)
	}
	return p, nil
}

// options reads the text of a run comment.
func (b *Block) options(text string) error {
	for _, word := range strings.Split(text, ", ") {
		need, needs := strings.CutPrefix(word, "needs ")
		switch {
		case needs:
			b.Needs = append(b.Needs, need)
		case word == "keeps running":
			b.Running = true
		case word == "any numbers":
			b.Numbers = true
		case word == "slow":
			b.Slow = true
		default:
			return fmt.Errorf("run: %q is not known; there are: keeps running, any numbers, slow, needs NAME", word)
		}
	}
	return nil
}

// Steps reads the commands of a console block; a setup is one command.
func (b Block) Steps() ([]Step, error) {
	if b.Lang == "setup" {
		return []Step{{Line: b.Line, Command: strings.Join(b.Lines, "\n"), Want: []string{"..."}}}, nil
	}
	var steps []Step
	for i, line := range b.Lines {
		m := prompt.FindStringSubmatch(line)
		switch {
		case m != nil && m[2] == "^C":
			steps = append(steps, Step{Line: b.Line + 1 + i, Shell: m[1], Interrupt: true})
		case m != nil:
			steps = append(steps, Step{Line: b.Line + 1 + i, Shell: m[1], Command: m[2]})
		case line == "^C":
			steps = append(steps, Step{Line: b.Line + 1 + i, Interrupt: true})
		case len(steps) == 0:
			return nil, fmt.Errorf("line %d: the block begins without a prompt", b.Line+1+i)
		default:
			last := &steps[len(steps)-1]
			if more, ok := strings.CutPrefix(line, ">"); ok && len(last.Want) == 0 && !last.Interrupt && (more == "" || more[0] == ' ') {
				last.Command += "\n" + strings.TrimPrefix(more, " ")
				continue
			}
			last.Want = append(last.Want, line)
		}
	}
	if b.Running && (len(steps) != 1 || steps[0].Interrupt || len(steps[0].Want) == 0) {
		return nil, fmt.Errorf("line %d: a block that keeps running has one command, and shows by what one sees that it runs", b.Line)
	}
	return steps, nil
}
