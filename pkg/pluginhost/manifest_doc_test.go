package pluginhost

import (
	"os"
	"regexp"
	"testing"
)

// TestReferenceTellsEveryKey keeps the table of docs/manifest.md equal to the keys that
// are read.
func TestReferenceTellsEveryKey(t *testing.T) {
	text, err := os.ReadFile("../../docs/manifest.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_.]+)` \\|").FindAllStringSubmatch(string(text), -1) {
		told[m[1]] = true
		if manifestKeys[m[1]] == nil {
			t.Errorf("docs/manifest.md tells of %s, which is no key", m[1])
		}
	}
	for key := range manifestKeys {
		if !told[key] {
			t.Errorf("docs/manifest.md has no row for %s", key)
		}
	}
}
