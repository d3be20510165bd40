package cli

import (
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// allLines reads every item of a text.
func allLines(text string, keep bool) (out []core.JobItem, l *lineReader, err error) {
	l = newLineReader("in.jsonl", strings.NewReader(text), keep)
	for {
		it, err := l.next()
		if errors.Is(err, io.EOF) {
			return out, l, nil
		}
		if err != nil {
			return out, l, err
		}
		out = append(out, it)
	}
}

// made is the id of a line without one at its n-th occurrence.
func made(line, n string) string {
	sum := core.SumContent([]byte(line))
	return hex.EncodeToString(sum[:8]) + "-" + n
}

func TestEveryLineGetsItsID(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"custom_id before id", `{"id":"b","custom_id":"a"}`, "a"},
		{"id", `{"x":1,"id":"b"}`, "b"},
		{"an empty custom_id gives way", `{"custom_id":"","id":"b"}`, "b"},
		{"a null custom_id gives way", `{"custom_id":null,"id":"b"}`, "b"},
		{"a number keeps its digits", `{"id":12345678901234567890}`, "12345678901234567890"},
		{"a number as it is written", `{"id":1.50}`, "1.50"},
		{"text is unquoted", `{"id":"a\u00e9\"b"}`, "aé\"b"},
		{"other case is another field", `{"ID":"x","Custom_Id":"y"}`, made(`{"ID":"x","Custom_Id":"y"}`, "1")},
		{"an inner id is another field", `{"a":{"id":"x"}}`, made(`{"a":{"id":"x"}}`, "1")},
		{"no id at all", `{}`, made(`{}`, "1")},
		{"white space is no content", " {\"a\":1}\t", made(`{"a":1}`, "1")},
	} {
		items, _, err := allLines(c.text+"\n", false)
		if err != nil || len(items) != 1 || items[0].ID != c.want || items[0].Err != nil {
			t.Errorf("%s: %+v, %v, want %q", c.name, items, err, c.want)
		}
	}
}

func TestEqualLinesWithoutAnIDAreCounted(t *testing.T) {
	items, _, err := allLines("{\"a\":1}\n{\"a\":2}\n{\"a\":1}\n{\"a\":1}", false)
	if err != nil || len(items) != 4 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for i, want := range []string{made(`{"a":1}`, "1"), made(`{"a":2}`, "1"), made(`{"a":1}`, "2"), made(`{"a":1}`, "3")} {
		if items[i].ID != want {
			t.Errorf("line %d is %s, want %s", i+1, items[i].ID, want)
		}
	}
}

func TestLinesReachThePluginAsTheyStand(t *testing.T) {
	text := "\xef\xbb\xbf{\"id\": 1 , \"a\":  [ 1,2 ] }\r\n\r\n   \n{\"id\":2}\r\n\n{\"id\":\"3\"}"
	items, _, err := allLines(text, false)
	if err != nil || len(items) != 3 {
		t.Fatalf("%d items, %v", len(items), err)
	}
	for i, want := range []string{`{"id": 1 , "a":  [ 1,2 ] }`, `{"id":2}`, `{"id":"3"}`} {
		if string(items[i].Payload) != want {
			t.Errorf("item %d is %q, want %q", i, items[i].Payload, want)
		}
	}
	for _, empty := range []string{"", "\n\n", "\xef\xbb\xbf"} {
		if items, _, err := allLines(empty, false); err != nil || len(items) != 0 {
			t.Errorf("%q gives %d items, %v", empty, len(items), err)
		}
	}
}

func TestBadLinesAreNamed(t *testing.T) {
	long := `{"a":"` + strings.Repeat("x", core.MaxCallPayload) + `"}`
	full := `{"a":"` + strings.Repeat("x", core.MaxCallPayload-len(`{"a":""}`)) + `"}`
	for _, c := range []struct {
		name, text string
		at         string // place and what is said there
		code       core.Code
	}{
		{"not JSON", "{\"id\":1}\n{oops\n", "in.jsonl:2: the line is not a JSON object: ", core.CodeInvalidArgument},
		{"cut off", "{\"id\":1}\n\n{\"id\":\n", "in.jsonl:3: the line is not a JSON object: ", core.CodeInvalidArgument},
		{"two objects in a line", "{\"id\":1} {\"id\":2}\n", "in.jsonl:1: the line is not a JSON object: ", core.CodeInvalidArgument},
		{"a list", "[1]\n", "in.jsonl:1: the line is not a JSON object", core.CodeInvalidArgument},
		{"a number", "17\n", "in.jsonl:1: the line is not a JSON object", core.CodeInvalidArgument},
		{"an id that is none", "{\"id\":[1]}\n", "in.jsonl:1: the field id is neither text nor a number", core.CodeInvalidArgument},
		{"a custom_id that is none", "{\"custom_id\":true,\"id\":1}\n", "in.jsonl:1: the field custom_id is neither text nor a number", core.CodeInvalidArgument},
		{"the same id again", "{\"id\":1}\n{\"id\":\"2\"}\n{\"custom_id\":\"1\"}\n", `in.jsonl:3: the id "1" stands in line 1 already`, core.CodeAlreadyExists},
		{"too large", "{\"id\":1}\n" + long + "\n", "in.jsonl:2: the line is longer than the 16777216 bytes", core.CodeTooLarge},
	} {
		_, l, err := allLines(c.text, false)
		if err == nil || l.failed == nil || !strings.Contains(err.Error(), c.at) || !strings.Contains(err.Error(), "--on-bad-line error") {
			t.Errorf("%s: stop answers %v", c.name, err)
		}
		items, _, err := allLines(c.text+"{\"id\":\"behind\"}\n", true)
		if err != nil || len(items) == 0 {
			t.Errorf("%s: error answers %v", c.name, err)
			continue
		}
		last, bad := items[len(items)-1], items[len(items)-2]
		if last.ID != "behind" || last.Err != nil {
			t.Errorf("%s: the line behind it became %+v", c.name, last)
		}
		if bad.Err == nil || bad.Err.Code != c.code || !strings.HasPrefix(bad.Err.Message, c.at) || bad.ID == "" || bad.Payload != nil {
			t.Errorf("%s: the line became %q %+v", c.name, bad.ID, bad.Err)
		}
	}
	if items, _, err := allLines(full+"\r\n", false); err != nil || len(items) != 1 || len(items[0].Payload) != core.MaxCallPayload {
		t.Errorf("a line of the greatest size: %d items, %v", len(items), err)
	}
}

func TestAReadErrorEndsTheReading(t *testing.T) {
	l := newLineReader("-", io.MultiReader(strings.NewReader("{\"id\":1}\n{\"id\""), failing{}), true)
	if _, err := l.next(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.next(); err == nil || l.failed == nil || !strings.Contains(err.Error(), "standard input:2: ") || !strings.Contains(err.Error(), "the disk is gone") {
		t.Errorf("it answers %v", err)
	}
}

// failing is a file that cannot be read.
type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

func FuzzLines(f *testing.F) {
	for _, seed := range []string{"{\"id\":1}\n", "{}\r\n{}\n", "\xef\xbb\xbf{\"custom_id\":\"a\",\"id\":2}", "[\n", "{\"id\":{}}\n{\"id\":\"\"}", "\n \n{"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		items, l, err := allLines(text, true)
		if err != nil || l.failed != nil {
			t.Fatalf("bad lines were to be kept: %v", err)
		}
		seen := map[string]bool{}
		for _, it := range items {
			if it.ID == "" || (it.Payload == nil) == (it.Err == nil) {
				t.Fatalf("item %+v", it)
			}
			if it.Err == nil && seen[it.ID] {
				t.Fatalf("the id %q was given twice", it.ID)
			}
			seen[it.ID] = seen[it.ID] || it.Err == nil
		}
		if _, l, err := allLines(text, false); (err != nil) != (l.failed != nil) {
			t.Fatalf("stopped with %v", err)
		}
	})
}
