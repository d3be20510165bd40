package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

const (
	referenceMark = "<!-- From here on the text comes from the code. -->\n"
	referenceEnv  = "UPDATE_REFERENCE" // makes the tests write the pages instead of comparing them
)

// reference keeps what stands below the mark of a page equal to text.
func reference(t *testing.T, file, text string) {
	t.Helper()
	name := filepath.Join(root, file)
	head, have, ok := strings.Cut(read(t, file), referenceMark)
	switch {
	case !ok:
		t.Fatalf("%s has no line %q", file, referenceMark)
	case have == text:
	case os.Getenv(referenceEnv) != "":
		if err := os.WriteFile(name, []byte(head+referenceMark+text), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s differs from the code; write it anew with: %s=1 go test -run Reference ./internal/pages", file, referenceEnv)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var (
	headerDefine = regexp.MustCompile(`^#define (ROLLOUT_PLUGIN_\w+) (\d+)u(?:\s*/\* (.*) \*/)?$`)
	headerMember = regexp.MustCompile(`^\s+(ROLLOUT_\w+) = (\d+),?(?:\s*/\* (.*) \*/)?$`)
	headerStruct = regexp.MustCompile(`^(struct|enum) (rollout_\w+) \{$`)
	headerField  = regexp.MustCompile(`^    \w[\w *]*?(?:\(\*)?(\w+)(?:\[\d+\])?(?:\)\(.*|;.*)$`)
	headerInline = regexp.MustCompile(`^static inline [\w ]+\*? ?(rollout_\w+)\(`)
	headerBeside = regexp.MustCompile(`/\* (.*) \*/$`)
)

// abi writes tables of what the C header declares.
func abi(header string) string {
	var constants, members, helpers, comment strings.Builder
	inside := ""
	for line := range strings.Lines(header) {
		line = strings.TrimRight(line, "\n")
		for _, re := range []*regexp.Regexp{headerDefine, headerMember} {
			if m := re.FindStringSubmatch(line); m != nil {
				fmt.Fprintf(&constants, "| `%s` | %s | %s |\n", m[1], m[2], m[3])
			}
		}
		if m := headerInline.FindStringSubmatch(line); m != nil {
			fmt.Fprintf(&helpers, "- `%s`\n", m[1])
		}
		m, f := headerStruct.FindStringSubmatch(line), headerField.FindStringSubmatch(line)
		switch {
		case m != nil && m[1] == "struct":
			inside = m[2]
		case line == "};":
			inside = ""
		case inside != "" && f != nil:
			text := comment.String()
			if beside := headerBeside.FindStringSubmatch(line); beside != nil {
				text = beside[1]
			}
			fmt.Fprintf(&members, "| `%s` | `%s` | %s |\n", inside, f[1], strings.TrimSpace(text))
			comment.Reset()
		case inside != "" && !strings.HasPrefix(line, "     "+"   "): // a comment, not a further line of arguments
			comment.WriteString(" " + strings.Trim(strings.TrimSpace(line), "/* "))
		}
	}
	return "\n## Constants\n\n| name | value | meaning |\n|---|---|---|\n" + constants.String() +
		"\n## Structures\n\n| structure | member | what |\n|---|---|---|\n" + members.String() +
		"\n## Helpers for C\n\n" + helpers.String()
}

// TestReferenceTellsTheHeader keeps the end of docs/abi.md equal to the header.
func TestReferenceTellsTheHeader(t *testing.T) {
	header := read(t, "include/rollout_plugin.h")
	text := abi(header)
	// What the expressions overlook would be missing without a sound.
	for _, m := range regexp.MustCompile(`(?m)^\s*(?:#define )?(ROLLOUT_\w+)(?: =|\s+\d)`).FindAllStringSubmatch(header, -1) {
		if !strings.Contains(text, "`"+m[1]+"`") {
			t.Errorf("the tables lack %s", m[1])
		}
	}
	for _, name := range []string{"abi_version", "struct_size", "init", "preflight", "call", "call_batch", "shutdown", "free_buf", "retry_max_ms", "cap", "rollout_fail"} {
		if !strings.Contains(text, "`"+name+"`") {
			t.Errorf("the tables lack %s", name)
		}
	}
	reference(t, "docs/abi.md", text)
}

// documented reads the table of topics: attrs by topic.
func documented(t *testing.T) map[string]string {
	t.Helper()
	topics := map[string]string{}
	_, table, _ := strings.Cut(read(t, "docs/events.md"), "\n## Topics\n")
	table, _, _ = strings.Cut(table, "\n## ")
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for _, m := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(cells[1], -1) {
			topics[m[1]] = cells[3]
		}
	}
	return topics
}

// TestReferenceTellsEveryTopic keeps the table of docs/events.md to the topics of core.
func TestReferenceTellsEveryTopic(t *testing.T) {
	topics := documented(t)
	var known []string
	for _, m := range regexp.MustCompile(`(?m)^\tTopic\w+\s+= "([a-z_]+)"`).FindAllStringSubmatch(read(t, "pkg/core/event.go"), -1) {
		known = append(known, m[1])
		if _, ok := topics[m[1]]; !ok {
			t.Errorf("docs/events.md has no row for %s", m[1])
		}
	}
	for topic := range topics {
		if !slices.Contains(known, topic) {
			t.Errorf("docs/events.md tells of %s, which is no topic", topic)
		}
	}
	if len(known) < 20 || known[0] != core.TopicCoordinatorStarted {
		t.Errorf("only %q were read from core", known)
	}
}

// TestLimitsAreThoseOfTheCode compares the numbers of docs/limits.md that are constants.
func TestLimitsAreThoseOfTheCode(t *testing.T) {
	page := read(t, "docs/limits.md")
	for row, place := range map[string]struct{ file, text string }{
		"an input line, a payload, a result | 16 MiB": {"pkg/core/plugin.go", "MaxCallPayload = 16 << 20"},
		"payloads in a batch for a plugin | 4,096":    {"pkg/core/plugin.go", "MaxBatchLen = 4096"},
		"inside the store | 256 KiB":                  {"pkg/core/work.go", "MaxInlinePayload = 256 << 10"},
		"recorded events | the newest 100,000":        {"pkg/coordinator/config.go", "DefaultEventRetention = 100_000"},
		"commands that wait for one worker | 256":     {"pkg/coordinator/commands.go", "maxPending = 256"},
		"an item's id | 1 KiB":                        {"pkg/coordinator/jobs/submit.go", "maxLineID = 1 << 10"},
		"connections; of one worker | 32,768; 16":     {"pkg/transport/config.go", "Connections: 32_768"},
		"calls and beats of one worker | 5,000":       {"pkg/transport/config.go", "WorkerPerSecond: 5_000"},
	} {
		text := strings.Join(strings.Fields(read(t, place.file)), " ")
		if !strings.Contains(page, row) || !strings.Contains(text, place.text) {
			t.Errorf("docs/limits.md says %q, and %s has no %s", row, place.file, place.text)
		}
	}
}

// lookAtEvents wants every attribute of the events that a page's programs have printed
// to be documented. What is documented and not printed here may be rarer.
func lookAtEvents(t *testing.T, dir string, topics map[string]string) {
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".ndjson") {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for line := range strings.Lines(string(text)) {
			var ev core.Event
			if err := json.Unmarshal([]byte(line), &ev); err != nil || ev.Topic == "" {
				continue // the record that rollout prints, or a line cut off by a kill
			}
			for attr := range ev.Attrs {
				if !strings.Contains(topics[ev.Topic], "`"+attr+"`") {
					t.Errorf("docs/events.md does not tell of %s.%s", ev.Topic, attr)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestChaptersSayWhatAChapterSays wants each part's chapter to say what the part
// promises, how it fails and how that is proven, in this order.
func TestChaptersSayWhatAChapterSays(t *testing.T) {
	for _, part := range []string{"proto", "storage", "cloud-local", "queue", "transport", "plugin-host", "python-bridge", "coordinator", "worker", "work", "smoke-test"} {
		text, at := read(t, "docs/"+part+".md"), 0
		for _, heading := range []string{"What it promises", "How it fails", "How it is proven"} {
			i := strings.Index(text[at:], "\n## "+heading)
			if i < 0 {
				i = strings.Index(text[at:], "\n"+heading) // of one of several things in a chapter
			}
			if i < 0 {
				t.Errorf("docs/%s.md does not say %q, in its place", part, heading)
				break
			}
			at += i
		}
	}
}
