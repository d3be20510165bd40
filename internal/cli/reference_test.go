package cli

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const (
	referenceFile = "../../docs/cli.md"
	// referenceMark is the line below which the reference is made from the commands.
	referenceMark = "<!-- From here on the text comes from the commands themselves. -->\n"
	// referenceEnv makes the test write the file instead of comparing it.
	referenceEnv = "UPDATE_REFERENCE"
)

// reference writes what every command says of itself.
func reference(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("\n## Flags of every command\n\n")
	flagTable(&b, root.PersistentFlags())
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Hidden || c.Name() == "help" || c.Name() == "completion" {
			return
		}
		if c != root && (c.Long != "" || !isGroup(c)) {
			section(&b, c)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(root)
	return b.String()
}

// isGroup reports whether a command only holds others.
func isGroup(c *cobra.Command) bool {
	return reflect.ValueOf(c.RunE).Pointer() == reflect.ValueOf(noCommand).Pointer()
}

func section(b *strings.Builder, c *cobra.Command) {
	fmt.Fprintf(b, "\n## %s\n\n%s.\n\n```\n%s\n```\n", c.CommandPath(), c.Short, strings.Replace(c.UseLine(), " [flags]", "", 1))
	if c.Long != "" {
		fmt.Fprintf(b, "\n```\n%s\n```\n", c.Long)
	}
	if c.LocalNonPersistentFlags().HasAvailableFlags() {
		b.WriteByte('\n')
		flagTable(b, c.LocalNonPersistentFlags())
	}
	if c.Example != "" {
		fmt.Fprintf(b, "\nFor example:\n\n```\n%s\n```\n", c.Example)
	}
}

func flagTable(b *strings.Builder, set *pflag.FlagSet) {
	b.WriteString("| flag | what it does |\n|---|---|\n")
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" || f.Name == "version" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		name := "--" + f.Name
		if f.Shorthand != "" {
			name = "-" + f.Shorthand + ", " + name
		}
		if value != "" {
			name += " " + strings.ToUpper(value)
		}
		switch f.DefValue {
		case "", "0", "0s", "false", "[]":
		default:
			if !strings.Contains(usage, "default") {
				usage += " (default " + f.DefValue + ")"
			}
		}
		fmt.Fprintf(b, "| `%s` | %s |\n", name, strings.ReplaceAll(usage, "|", `\|`))
	})
}

// TestTheReferenceTellsEveryCommand keeps docs/cli.md equal to what the commands say
// of themselves.
func TestTheReferenceTellsEveryCommand(t *testing.T) {
	text := readFile(t, referenceFile)
	head, have, ok := strings.Cut(text, referenceMark)
	if !ok {
		t.Fatalf("%s has no line %q", referenceFile, referenceMark)
	}
	want := reference(newRoot(&tool{}))
	if have == want {
		return
	}
	if os.Getenv(referenceEnv) != "" {
		if err := os.WriteFile(referenceFile, []byte(head+referenceMark+want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	haves, wants := strings.Split(have, "\n"), strings.Split(want, "\n")
	for i := range wants {
		if i >= len(haves) || haves[i] != wants[i] {
			t.Fatalf("docs/cli.md differs from the commands, first where they say:\n%s\nwrite it anew with: %s=1 go test -run Reference ./internal/cli", wants[i], referenceEnv)
		}
	}
	t.Fatalf("docs/cli.md says more than the commands; write it anew with: %s=1 go test -run Reference ./internal/cli", referenceEnv)
}

// Every command must be there to be read: with a sentence, and an error that names
// usage instead of doing something else.
func TestEveryCommandExplainsItself(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s has the summary %q", c.CommandPath(), c.Short)
		}
		for line := range strings.Lines(c.Long) {
			if len(line) > 96 {
				t.Errorf("%s has a line of %d bytes: %s", c.CommandPath(), len(line), line)
			}
		}
		words := strings.Fields(c.CommandPath())[1:]
		if out, stderr, code := call(Operator, append(words, "--help")...); code != ExitOK || stderr != "" || !strings.Contains(out, c.Name()) {
			t.Errorf("%s --help: status %d, %s", c.CommandPath(), code, stderr)
		}
		if _, stderr, code := call(Operator, append(words, "--nonsense")...); code != ExitUsage || !strings.Contains(stderr, "unknown flag: --nonsense") {
			t.Errorf("%s --nonsense: status %d, %s", c.CommandPath(), code, stderr)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	for _, c := range newRoot(&tool{}).Commands() {
		walk(c)
	}
}
