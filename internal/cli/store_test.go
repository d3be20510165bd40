package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

var updateGolden = flag.Bool("update", false, "write the golden files of this package again")

// storeFile makes a closed store in dir with rows of every kind of value.
func storeFile(t *testing.T, dir string) string {
	t.Helper()
	ctx, path := context.Background(), filepath.Join(dir, "rollout.db")
	// Without a commit at an idle moment the file is the same on a slow machine.
	s, err := storage.Open(ctx, storage.Config{Path: path, IdleCommit: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	run := core.RunID{0: 1, 15: 9}
	rows := []struct {
		key   core.Key
		value any
	}{
		{core.NewKey(core.NamespaceMeta, "epoch"), uint64(7)},
		{core.NewKey(core.NamespaceWorkers, "01ARZ3NDEKTSV4RRFFQ69G5FAV"), map[string]any{"state": "ready", "slots": 4, "load": 0.25, "tags": []string{"a", "b"}, "gone": nil, "ok": true}},
		{core.NewKey(core.NamespaceItems, "job", "a/b", "with \"quotes\"").InRun(run), []byte{0, 1, 0xFF}},
		{core.NewKey(core.NamespaceItems, "job", storage.UintSegment(300)).InRun(run), strings.Repeat("long ", 60)},
		{core.NewKey(core.NamespaceItems), map[int]string{-1: "<html>"}},
	}
	for _, row := range rows {
		b, err := msgpack.Marshal(row.value)
		if m, ok := row.value.(map[string]any); ok {
			b, err = storage.Encode(m)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := core.PutBytes(ctx, s, row.key, b); err != nil {
			t.Fatal(err)
		}
	}
	for i, raw := range []string{"not MessagePack", "", "\xc1"} {
		if _, err := core.PutBytes(ctx, s, core.NewKey(core.NamespaceQueue, fmt.Sprint(i)), []byte(raw)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// runTool runs the operator's tool in process.
func runTool(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = Operator(context.Background(), args, strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

// golden compares what was printed with a file, or writes it with -update. The
// temporary directory reads DIR.
func golden(t *testing.T, name, dir, got string) {
	t.Helper()
	got = strings.ReplaceAll(got, dir, "DIR")
	path := filepath.Join("testdata", "store", name)
	if *updateGolden {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: printed\n%s\nwant\n%s", name, got, want)
	}
}

func TestStoreScanPrintsEveryRow(t *testing.T) {
	dir := t.TempDir()
	path := storeFile(t, dir)
	for _, tt := range []struct {
		golden string
		args   []string
	}{
		{"scan.txt", []string{"store", "scan", path}},
		{"scan.json", []string{"store", "scan", path, "--json"}},
		{"scan-items.json", []string{"store", "scan", path, "items", "--json"}},
		{"scan-none.json", []string{"store", "scan", path, "nobody_wrote_here", "--json"}},
	} {
		status, out, errs := runTool(t, tt.args...)
		if status != ExitOK || errs != "" {
			t.Errorf("%q: status %d: %s", tt.args, status, errs)
		}
		golden(t, tt.golden, dir, out)
		if strings.Contains(out, dir) {
			t.Errorf("%q: the output names the file", tt.args)
		}
	}
}

func TestStoreScanOfACopyIsTheSame(t *testing.T) {
	dir := t.TempDir()
	path := storeFile(t, dir)
	_, first, _ := runTool(t, "store", "scan", path, "--json")
	copied := filepath.Join(dir, "copy.db")
	if status, _, errs := runTool(t, "store", "backup", path, copied); status != ExitOK {
		t.Fatalf("backup: %s", errs)
	}
	if status, _, errs := runTool(t, "store", "compact", copied); status != ExitOK {
		t.Fatalf("compact: %s", errs)
	}
	status, second, errs := runTool(t, "store", "scan", copied, "--json")
	if status != ExitOK || first != second {
		t.Errorf("status %d %s: the scan of a compacted copy differs:\n%s\nfrom\n%s", status, errs, second, first)
	}
}

func TestStoreCheckReports(t *testing.T) {
	dir := t.TempDir()
	path := storeFile(t, dir)
	status, out, _ := runTool(t, "store", "check", path)
	if status != ExitOK {
		t.Errorf("a sound store: status %d", status)
	}
	golden(t, "check.txt", dir, out)
	status, out, _ = runTool(t, "store", "check", path, "--json")
	golden(t, "check.json", dir, out)
	var sound checked
	if err := json.Unmarshal([]byte(out), &sound); err != nil || status != ExitOK || !sound.OK || sound.Store.Rows != 8 {
		t.Errorf("status %d, %v: %s", status, err, out)
	}
}

// TestStoreToolsRefuse holds each way to be refused to its exit status and message.
func TestStoreToolsRefuse(t *testing.T) {
	dir := t.TempDir()
	path := storeFile(t, dir)
	damaged, meta, text := filepath.Join(dir, "damaged.db"), filepath.Join(dir, "meta.db"), filepath.Join(dir, "notes.txt")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Free pages may hold older copies of the value, and which is the live one varies.
	rotten := bytes.ReplaceAll(b, []byte("long long"), []byte("long lung"))
	one := bytes.Clone(b)
	clear(one[:64])
	for name, data := range map[string][]byte{damaged: rotten, meta: one, text: []byte("a text, not a store, of more than no bytes\n")} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	held := filepath.Join(dir, "held.db")
	if err := os.WriteFile(held, b, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := storage.Open(context.Background(), storage.Config{Path: held})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	holder := fmt.Sprintf("process %d", os.Getpid())
	missing, fresh := filepath.Join(dir, "missing.db"), filepath.Join(dir, "fresh.db")
	for _, tt := range []struct {
		args   string
		status int
		say    string
	}{
		{"check " + damaged, ExitFailure, "checksum"},
		{"scan " + damaged, ExitFailure, "checksum"},
		{"compact " + damaged, ExitFailure, "checksum"},
		{"restore " + damaged + " " + fresh, ExitFailure, "checksum"},
		{"check " + meta, ExitFailure, "meta page 0"},
		{"scan " + meta, ExitFailure, "meta page 0"},
		{"check " + text, ExitFailure, "is no store"},
		{"check " + missing, ExitFailure, "does not exist"},
		{"check " + held, ExitFailure, holder},
		{"scan " + held, ExitFailure, holder},
		{"compact " + held, ExitFailure, holder},
		{"backup " + held + " " + fresh, ExitFailure, holder},
		{"restore " + held + " " + fresh, ExitFailure, holder},
		{"restore " + path + " " + text, ExitFailure, "exists"},
		{"backup " + path + " " + text, ExitFailure, "exists"},
		{"compact " + path + " " + text, ExitFailure, "exists"},
		{"scan " + path + " Upper", ExitUsage, "namespace"},
		{"check", ExitUsage, "usage"},
		{"restore " + path, ExitUsage, "usage"},
		{"burn " + path, ExitUsage, "no command"},
	} {
		for _, asJSON := range []bool{false, true} {
			if asJSON && tt.say == holder {
				continue // each of these waits a second for the holder
			}
			args := append([]string{"store"}, strings.Fields(tt.args)...)
			if asJSON {
				args = append(args, "--json")
			}
			status, out, errs := runTool(t, args...)
			if status != tt.status || !strings.Contains(errs, tt.say) {
				t.Errorf("%q: status %d, want %d; stderr does not say %q: %s", args, status, tt.status, tt.say, errs)
			}
			if asJSON && strings.HasPrefix(tt.args, "check ") {
				var c checked
				if err := json.Unmarshal([]byte(out), &c); err != nil || c.OK || c.Error == nil || c.Error.Message == "" {
					t.Errorf("%q printed %q: %v", args, out, err)
				}
			} else if out != "" {
				t.Errorf("%q printed %q", args, out)
			}
			if _, err := os.Stat(fresh); err == nil {
				t.Errorf("%q left a file", args)
			}
		}
	}
}

func TestStoreRestoreRaisesTheEpoch(t *testing.T) {
	dir := t.TempDir()
	path := storeFile(t, dir)
	for i, extra := range [][]string{nil, {"--json"}} {
		dst := filepath.Join(dir, fmt.Sprintf("restored%d.db", i))
		status, out, errs := runTool(t, append([]string{"store", "restore", path, dst}, extra...)...)
		if status != ExitOK || !strings.Contains(out, dst) {
			t.Fatalf("status %d: %s%s", status, out, errs)
		}
		s, err := storage.Open(context.Background(), storage.Config{Path: dst, ReadOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		epoch, err := storage.Epoch(context.Background(), s)
		if err != nil || epoch <= 7 {
			t.Errorf("the epoch is %d after it was 7: %v", epoch, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestStoreCompactSaysWhatItGained(t *testing.T) {
	dir := t.TempDir()
	path := storeFile(t, dir)
	status, out, errs := runTool(t, "store", "compact", path, filepath.Join(dir, "small.db"), "--json")
	var c struct {
		File          string
		Before, After int64
	}
	if err := json.Unmarshal([]byte(out), &c); err != nil || status != ExitOK || c.Before <= 0 || c.After <= 0 || c.After > c.Before {
		t.Errorf("status %d, %v: %s%s", status, err, out, errs)
	}
}

func TestRowValueRefusesDeepNesting(t *testing.T) {
	deep := append(bytes.Repeat([]byte{0x91}, 1<<20), 0xc0) // a million arrays of one
	if got := string(rowValue(deep)); !strings.HasPrefix(got, `{"base64":`) {
		t.Errorf("a value nested a million deep gives %.40q", got)
	}
}

func TestRowValueShowsTextAndJSON(t *testing.T) {
	for stored, want := range map[string]string{
		`{"a": [1, "<"]}`:            `{"a":[1,"<"]}`,
		"01ARZ3NDEKTSV4RRFFQ69G5FAV": `"01ARZ3NDEKTSV4RRFFQ69G5FAV"`,
		"two\nlines":                 `{"base64":"dHdvCmxpbmVz"}`,
		"{cut":                       `"{cut"`,
		"":                           `{"base64":""}`,
	} {
		if got := string(rowValue([]byte(stored))); got != want {
			t.Errorf("%q is shown as %s, not %s", stored, got, want)
		}
	}
}

// FuzzRowValue holds what a scan prints to JSON, whatever is stored.
func FuzzRowValue(f *testing.F) {
	for _, v := range []any{nil, true, -1, uint64(1) << 63, 1.5, "text", []byte("bytes"), []any{1, "a", nil}, map[string]any{"k": map[string]int{"n": 1}}, map[int]int{1: 2}} {
		b, err := msgpack.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		if got := rowValue(b); !json.Valid(got) {
			t.Errorf("%x gives %q, which is no JSON", b, got)
		}
	})
}
