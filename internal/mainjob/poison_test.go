package mainjob

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// outcome is a result line.
type outcome struct {
	ID     string
	Status string
	Result json.RawMessage
	Error  struct{ Code, Message string }
}

// TestPoisonItems gives a plugin items that kill it, hang it, or answer too much or
// nothing: each is answered for what it did, and every other item is ok.
func TestPoisonItems(t *testing.T) {
	cases := []struct{ do, status, code, result string }{
		{"die", "dead", "plugin_crashed", ""},
		{"hang", "dead", "deadline_exceeded", ""},
		{"raise", "error", "plugin_error", ""},
		{"nothing", "ok", "", `{"base64":""}`},
		{"10", "ok", "", `"x`},
		{"17", "error", "too_large", ""},
	}
	var lines strings.Builder
	const good = 60
	for i := range good {
		fmt.Fprintf(&lines, "{\"id\": \"good-%d\", \"do\": \"work\"}\n", i)
		if i%10 == 5 {
			fmt.Fprintf(&lines, "{\"id\": \"bad-%s\", \"do\": %q}\n", cases[i/10].do, cases[i/10].do)
		}
	}
	c := newCluster(t, "h2", 2, "naughty")
	in := filepath.Join(c.dir, "lines.jsonl")
	if err := os.WriteFile(in, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	out := c.path("out.jsonl")
	_, err := c.tool(nil, "submit", "--plugin", "naughty", "--method", "do", "--input", in, "--wait", "--output", out, "--max-attempts", "2")
	if err == nil || !strings.Contains(err.Error(), "exit status 1") || !strings.Contains(err.Error(), "4 of 66 items are not ok") {
		t.Errorf("submit ended with %v, want exit status 1 and the number of bad items", err)
	}
	results := map[string]outcome{}
	eachLine(t, out, func(line []byte) {
		var r outcome
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		results[r.ID] = r
	})
	if len(results) != good+len(cases) {
		t.Errorf("%d results for %d lines", len(results), good+len(cases))
	}
	for i := range good {
		if r := results[fmt.Sprintf("good-%d", i)]; r.Status != "ok" || string(r.Result) != `{"did": "work"}` && string(r.Result) != `{"did":"work"}` {
			t.Errorf("good-%d: %s %s %+v", i, r.Status, r.Result, r.Error)
		}
	}
	for _, want := range cases {
		r := results["bad-"+want.do]
		head := string(r.Result[:min(len(r.Result), 40)])
		if r.Status != want.status || r.Error.Code != want.code || !strings.HasPrefix(head, want.result) {
			t.Errorf("%s: got %s %q %q with %s, want %s %q", want.do, r.Status, r.Error.Code, r.Error.Message, head, want.status, want.code)
		}
	}
	if n := len(results["bad-10"].Result); n != 10<<20+2 {
		t.Errorf("the large result has %d bytes", n)
	}
}
