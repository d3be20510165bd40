package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// onPath makes this test binary the program rollout of a PATH.
func onPath(t *testing.T) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n%s=rollout exec '%s' \"$@\"\n", childEnv, self)
	if err := os.WriteFile(filepath.Join(dir, "rollout"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

// bashStandIn is the one function that scripts use of the package bash-completion.
const bashStandIn = `
declare -F _init_completion _get_comp_words_by_ref >/dev/null || _get_comp_words_by_ref() {
  words=("${COMP_WORDS[@]}"); cword=$COMP_CWORD
  cur=${words[cword]}; prev=${words[cword-1]}
}
`

// pressTab returns what a shell offers for the words typed so far.
type pressTab func(t *testing.T, script string, words ...string) []string

func bashTab(t *testing.T, script string, words ...string) []string {
	t.Helper()
	line := strings.Join(words, " ")
	cmd := exec.CommandContext(t.Context(), "bash", "--norc", "-c", bashStandIn+`
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9; COMP_KEY=9
COMP_LINE="$*"; COMP_POINT=${#COMP_LINE}
__start_rollout 2>/dev/null
printf '%s\n' "${COMPREPLY[@]}"`, "bash", script)
	cmd.Args = append(cmd.Args, words...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	var offered []string
	for word := range strings.Lines(string(out)) {
		// Beside others a word carries its description.
		if fields := strings.Fields(word); len(fields) > 0 {
			offered = append(offered, fields[0])
		}
	}
	return offered
}

func fishTab(t *testing.T, script string, words ...string) []string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", script, strings.Join(words, " ")).Output()
	if err != nil {
		t.Fatalf("%s: %v", strings.Join(words, " "), err)
	}
	var offered []string
	for word := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(word), "\t")
		offered = append(offered, name)
	}
	return offered
}

func TestShellsComplete(t *testing.T) {
	onPath(t)
	for shell, tab := range map[string]pressTab{"bash": bashTab, "fish": fishTab, "zsh": nil} {
		t.Run(shell, func(t *testing.T) {
			out, stderr, code := call(Operator, "completion", shell)
			if code != ExitOK || stderr != "" {
				t.Fatalf("status %d: %s", code, stderr)
			}
			path, err := exec.LookPath(shell)
			if err != nil {
				t.Skipf("NOT TRIED: %v", err)
			}
			script := filepath.Join(t.TempDir(), "rollout."+shell)
			if err := os.WriteFile(script, []byte(out), 0o600); err != nil {
				t.Fatal(err)
			}
			if text, err := exec.CommandContext(t.Context(), path, "-n", script).CombinedOutput(); err != nil {
				t.Fatalf("the script does not parse: %v\n%s", err, text)
			}
			if tab == nil {
				return // it completes at a terminal only
			}
			for _, c := range []struct {
				typed []string
				want  []string
			}{
				{[]string{"rollout", "sto"}, []string{"store"}},
				{[]string{"rollout", "store", "c"}, []string{"check", "compact"}},
				{[]string{"rollout", "plugin", "new", "--lang", "r"}, []string{"rust"}},
				{[]string{"rollout", "--log-level", ""}, []string{"debug", "info", "warn", "error"}},
				{[]string{"rollout", "doctor", "--js"}, []string{"--json"}},
			} {
				if got := tab(t, script, c.typed...); !slices.Equal(got, c.want) {
					t.Errorf("%s is completed by %q, want %q", strings.Join(c.typed, " "), got, c.want)
				}
			}
		})
	}
}

// What a coordinator knows is offered where it is asked for, and nothing where there
// is no coordinator.
func TestIdsAndNamesAreCompleted(t *testing.T) {
	s := newSite(t)
	w := s.worker("w", "--plugin", "../../examples/gsm8k-reward/rollout-plugin.toml")
	id := s.coord.await(core.TopicWorkerRegistered, 1).WorkerID
	w.await(core.TopicPluginLoaded, 1)
	s.coord.await(core.TopicWorkerState, 1)
	job, stderr, code := s.rollout("submit", "--plugin", "gsm8k-reward", "--method", "score", "--input", "../../examples/gsm8k-reward/sample.jsonl")
	if code != ExitOK {
		t.Fatal(stderr)
	}
	job = strings.TrimSpace(job)
	at := []string{"--addr", s.addr, "--tls-dir", s.tls()}
	for _, c := range []struct {
		command []string
		want    string
	}{
		{[]string{"drain", ""}, id}, {[]string{"workers", "forget", id[:3]}, id}, {[]string{"plugin", "reload", "--worker", ""}, id},
		{[]string{"job", "show", ""}, job}, {[]string{"dead", "requeue", job[:3]}, job}, {[]string{"queue", "stats", ""}, job},
		{[]string{"submit", "--plugin", "gsm"}, "gsm8k-reward"}, {[]string{"plugin", "reload", ""}, "gsm8k-reward"},
		{[]string{"drain", "zzz"}, ":"}, {[]string{"job", "show", job, ""}, ":"},
	} {
		last := len(c.command) - 1
		typed := append(append([]string{"__complete"}, at...), c.command...)
		if out, stderr, code := call(Operator, typed...); code != ExitOK || !strings.HasPrefix(out, c.want) {
			t.Errorf("%q and a tab: status %d, %q, %s", c.command[:last+1], code, out, stderr)
		}
	}
	nobody := append([]string{"__complete", "--addr", "127.0.0.1:1", "--tls-dir", s.path("none")}, "drain", "")
	if out, _, code := call(Operator, nobody...); code != ExitOK || !strings.HasPrefix(out, ":") {
		t.Errorf("without a coordinator: status %d, %q", code, out)
	}
}

// Every command that does something shows how, with a line that it would take.
func TestEveryCommandHasAnExample(t *testing.T) {
	root := newRoot(&tool{})
	hints := (&tool{}).hints()
	walkCommands(root, func(c *cobra.Command) {
		path := belowRoot(c)
		if _, known := hints[path]; isGroup(c) || path == "" {
			if known {
				t.Errorf("%s does nothing and has a hint", path)
			}
			return
		}
		if c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		delete(hints, path)
		for line := range strings.Lines(c.Example) {
			at := strings.Index(line, "rollout "+path)
			if at < 0 {
				t.Errorf("an example of %s does not call it: %s", path, line)
				continue
			}
			words := strings.Fields(strings.NewReplacer("\"", "", "'", "").Replace(line[at:]))
			words = words[:slices.Index(append(words, ">"), ">")]
			found, rest, err := root.Find(words[1:])
			if err != nil || found != c {
				t.Errorf("%s calls %s, %v", line, found.CommandPath(), err)
				continue
			}
			if err := c.ParseFlags(rest); err != nil {
				t.Errorf("%s: %v", line, err)
			} else if err := c.ValidateArgs(c.Flags().Args()); err != nil && !strings.Contains(line, "--reason") {
				t.Errorf("%s: %v", line, err)
			}
		}
	})
	for path := range hints {
		t.Errorf("a hint for %q, which is no command", path)
	}
}

func TestWrongWordsAreAnsweredWithTheRightOnes(t *testing.T) {
	for typed, want := range map[string]string{
		"stroe check":              `"stroe" is no command of rollout, did you mean "store"?` + "\nsee rollout --help",
		"store chekc x":            `"chekc" is no command of rollout store, did you mean "check"?` + "\nsee rollout store --help",
		"workers forgte x":         `"forgte" is no command of rollout workers, did you mean "forget"?` + "\nsee rollout workers --help",
		"plugin nwe":               `did you mean "new"?`,
		"logs":                     `did you mean "events"?`,
		"stop":                     `did you mean "drain"?`,
		"zzzzzz":                   "\"zzzzzz\" is no command of rollout\n",
		"status --jsn":             "unknown flag: --jsn, did you mean --json?\nsee rollout status --help",
		"submit --pluign x":        "did you mean --plugin?",
		"store scan --data-dri=x":  "did you mean --data-dir?",
		"store scan --qqqqqqqqqqq": "unknown flag: --qqqqqqqqqqq\n",
		"store scan":               "see rollout store scan --help",
		"job show":                 "see rollout job show --help",
	} {
		_, stderr, code := call(Operator, strings.Fields(typed)...)
		if code != ExitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%s: status %d, %q", typed, code, stderr)
		}
	}
	for name, main := range map[string]program{"coordinator": Coordinator, "worker": Worker} {
		var out, errs bytes.Buffer
		code := main(t.Context(), []string{"--confg", "x"}, strings.NewReader(""), &out, &errs)
		if want := "unknown flag: --confg, did you mean --config?\nsee " + name + " --help"; code != ExitUsage || !strings.Contains(errs.String(), want) {
			t.Errorf("%s: status %d, %q", name, code, errs.String())
		}
	}
}
