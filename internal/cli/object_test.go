package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// objectRun runs the tool with what it reads on stdin.
func objectRun(stdin string, args ...string) (status int, stdout, stderr string) {
	var out, errs bytes.Buffer
	status = Operator(context.Background(), args, strings.NewReader(stdin), &out, &errs)
	return status, out.String(), errs.String()
}

// putObject stores text below dir and returns its id.
func putObject(t *testing.T, dir, text string) string {
	t.Helper()
	status, out, stderr := objectRun(text, "object", "put", "-", "--data-dir", dir)
	if status != ExitOK || stderr != "" {
		t.Fatalf("put: %d, %s", status, stderr)
	}
	id := strings.TrimSuffix(out, "\n")
	if want := core.SumContent([]byte(text)).String(); id != want {
		t.Fatalf("put printed %q, want %s alone", out, want)
	}
	return id
}

func objectFile(dir, id string) string {
	return filepath.Join(dir, "object-store", id[:2], id[2:4], id)
}

// spoil flips a bit of a stored object.
func spoil(t *testing.T, dir, id string) {
	t.Helper()
	b, err := os.ReadFile(objectFile(dir, id))
	if err != nil {
		t.Fatal(err)
	}
	b[0] ^= 1
	if err := os.WriteFile(objectFile(dir, id), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestObjectPutGetStatList(t *testing.T) {
	dir := t.TempDir()
	text := "hello"
	file := filepath.Join(t.TempDir(), "in")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	status, out, stderr := objectRun("", "object", "put", file, "--content-type", "text/plain", "--data-dir", dir)
	id := strings.TrimSpace(out)
	if status != ExitOK || out != core.SumContent([]byte(text)).String()+"\n" {
		t.Fatalf("put: %d, %q, %s", status, out, stderr)
	}
	if status, out, stderr := objectRun("", "object", "get", id, "--data-dir", dir); status != ExitOK || out != text {
		t.Errorf("get: %d, %q, %s", status, out, stderr)
	}
	to := filepath.Join(t.TempDir(), "out")
	if status, out, stderr := objectRun("", "object", "get", id, "-o", to, "--root", filepath.Join(dir, "object-store")); status != ExitOK || out != "" {
		t.Errorf("get -o: %d, %q, %s", status, out, stderr)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != text {
		t.Errorf("%q, %v", b, err)
	}
	var info core.ObjectInfo
	status, out, stderr = objectRun("", "object", "stat", id, "--json", "--data-dir", dir)
	if err := json.Unmarshal([]byte(out), &info); status != ExitOK || err != nil || info.ID.String() != id || info.Size != 5 || info.ContentType != "text/plain" {
		t.Errorf("stat: %d, %s, %s, %v", status, out, stderr, err)
	}
	if status, out, _ := objectRun("", "object", "stat", id, "--data-dir", dir); status != ExitOK || !strings.Contains(out, "5 bytes") || !strings.Contains(out, "text/plain") {
		t.Errorf("stat: %d, %s", status, out)
	}
	other := putObject(t, dir, "other")
	ids := []string{min(id, other), max(id, other)}
	status, out, _ = objectRun("", "object", "list", "--data-dir", dir)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if status != ExitOK || len(lines) != 2 || !strings.HasPrefix(lines[0], ids[0]) || !strings.HasPrefix(lines[1], ids[1]) {
		t.Errorf("list: %d, %s", status, out)
	}
	if status, out, _ := objectRun("", "object", "list", "--json", "--after", ids[0], "--data-dir", dir); status != ExitOK || strings.Count(out, "\n") != 1 || !strings.Contains(out, ids[1]) {
		t.Errorf("list --after: %d, %s", status, out)
	}
	if status, out, _ := objectRun("", "object", "list", "--limit", "1", "--data-dir", dir); status != ExitOK || strings.Count(out, "\n") != 1 {
		t.Errorf("list --limit: %d, %s", status, out)
	}
}

func TestObjectDamage(t *testing.T) {
	dir := t.TempDir()
	good, bad := putObject(t, dir, "good"), putObject(t, dir, "bad")
	if status, out, stderr := objectRun("", "object", "verify", "--data-dir", dir); status != ExitOK || out != "" || stderr != "" {
		t.Errorf("verify of a sound store: %d, %q, %q", status, out, stderr)
	}
	spoil(t, dir, bad)
	to := t.TempDir()
	status, out, stderr := objectRun("", "object", "get", bad, "-o", filepath.Join(to, "out"), "--data-dir", dir)
	if status != ExitFailure || out != "" || !strings.Contains(stderr, "damaged") {
		t.Errorf("get: %d, %q, %q", status, out, stderr)
	}
	if entries, err := os.ReadDir(to); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	if status, out, _ := objectRun("", "object", "get", bad, "--data-dir", dir); status != ExitFailure || out != "" {
		t.Errorf("get to stdout: %d, %q", status, out)
	}
	if status, out, _ := objectRun("", "object", "verify", "--data-dir", dir); status != ExitFailure || out != bad+"\n" {
		t.Errorf("verify: %d, %q", status, out)
	}
	if _, err := os.Stat(objectFile(dir, bad)); err != nil {
		t.Errorf("something moved it: %v", err)
	}
	absent := core.SumContent([]byte("absent")).String()
	if status, out, _ := objectRun("", "object", "verify", good, absent, "--data-dir", dir); status != ExitFailure || out != absent+"\n" {
		t.Errorf("verify of a missing one: %d, %q", status, out)
	}
	status, out, _ = objectRun("", "object", "verify", "--quarantine", "--json", "--data-dir", dir)
	var report struct {
		OK      bool
		Damaged []damagedObject
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil || status != ExitFailure || report.OK || len(report.Damaged) != 1 || !report.Damaged[0].Quarantined || report.Damaged[0].Code != core.CodeCorrupt {
		t.Errorf("verify --quarantine: %d, %s, %v", status, out, err)
	}
	if status, out, _ := objectRun("", "object", "verify", "--json", "--data-dir", dir); status != ExitOK || out != `{"damaged":[],"ok":true}`+"\n" {
		t.Errorf("verify afterwards: %d, %s", status, out)
	}
	putObject(t, dir, "bad")
	if status, out, _ := objectRun("", "object", "get", bad, "--data-dir", dir); status != ExitOK || out != "bad" {
		t.Errorf("get of what was put again: %d, %q", status, out)
	}
}

func TestObjectUsage(t *testing.T) {
	dir := t.TempDir()
	id := core.SumContent([]byte("x")).String()
	for _, c := range []struct {
		want int
		args []string
	}{
		{ExitUsage, []string{"object", "put"}},
		{ExitUsage, []string{"object", "get", "../../etc/passwd"}},
		{ExitUsage, []string{"object", "stat", strings.ToUpper(id)}},
		{ExitUsage, []string{"object", "verify", "x"}},
		{ExitUsage, []string{"object", "list", "--after", "x"}},
		{ExitUsage, []string{"object", "list", "--limit", "-1"}},
		{ExitUsage, []string{"object", "shred", id}},
		{ExitUsage, []string{"object", "put", "-", "--content-type", "a\nb"}},
		{ExitFailure, []string{"object", "put", filepath.Join(dir, "absent")}},
		{ExitFailure, []string{"object", "put", dir}},
		{ExitFailure, []string{"object", "get", id}},
		{ExitFailure, []string{"object", "stat", id}},
		{ExitUsage, []string{"object", "gc"}},
		{ExitUsage, []string{"object", "gc", "--grace", "-1s", "--keep", "-"}},
		{ExitFailure, []string{"object", "gc", "--store", filepath.Join(dir, "absent.db")}},
	} {
		if status, out, stderr := objectRun("", append(c.args, "--data-dir", dir)...); status != c.want || out != "" || stderr == "" {
			t.Errorf("%v: %d, want %d; %q, %q", c.args, status, c.want, out, stderr)
		}
	}
	if status, _, stderr := objectRun("", "object", "list", "--data-dir", filepath.Join(dir, "absent")); status != ExitFailure || !strings.Contains(stderr, "no object store") {
		t.Errorf("list of no store: %d, %s", status, stderr)
	}
	if _, err := os.Stat(filepath.Join(dir, "absent")); err == nil {
		t.Error("a store was made by reading")
	}
}

func TestObjectGC(t *testing.T) {
	dir := t.TempDir()
	listed, inValue, inText, inKey, loose := putObject(t, dir, "listed"), putObject(t, dir, "value"), putObject(t, dir, "text"), putObject(t, dir, "key"), putObject(t, dir, "loose")
	raw := core.SumContent([]byte("value"))
	keyRaw := core.SumContent([]byte("key"))
	s, err := storage.Open(t.Context(), storage.Config{Path: filepath.Join(dir, "rollout.db")})
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range map[string][]byte{"a": append([]byte("payload \x00"), raw[:]...), "b": []byte(`{"id":"0` + inText + `f"}`), string(keyRaw[:]): []byte("x")} {
		if _, err := core.PutBytes(t.Context(), s, core.NewKey(core.NamespaceItems, key), value); err != nil {
			t.Fatal(err)
		}
	}
	if status, _, stderr := objectRun("", "object", "gc", "--data-dir", dir); status != ExitFailure || !strings.Contains(stderr, "rollout.db") {
		t.Errorf("gc beside an open store: %d, %s", status, stderr)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	gc := func(want string, more ...string) {
		t.Helper()
		status, out, stderr := objectRun(listed+"\n\n", append([]string{"object", "gc", "--keep", "-", "--json", "--data-dir", dir}, more...)...)
		if status != ExitOK || strings.TrimSpace(out) != want {
			t.Errorf("gc %v: %d, %s, %s; want %s", more, status, out, stderr, want)
		}
	}
	gc(`{"dry_run":false,"freed":0,"kept":5,"removed":0}`)
	gc(`{"dry_run":true,"freed":5,"kept":4,"removed":1}`, "--grace", "0s", "--dry-run")
	gc(`{"dry_run":false,"freed":5,"kept":4,"removed":1}`, "--grace", "0s")
	for id, want := range map[string]int{listed: 0, inValue: 0, inText: 0, inKey: 0, loose: 1} {
		if status, _, stderr := objectRun("", "object", "stat", id, "--data-dir", dir); status != want {
			t.Errorf("stat %s: %d, %s", id, status, stderr)
		}
	}
	past := time.Now().Add(-48 * time.Hour)
	for _, id := range []string{listed, inValue} {
		if err := os.Chtimes(objectFile(dir, id), past, past); err != nil {
			t.Fatal(err)
		}
	}
	if status, out, stderr := objectRun("", "object", "gc", "--data-dir", dir); status != ExitOK || out != "removed 1 object, 6 B; kept 3\n" {
		t.Errorf("gc: %d, %s, %s", status, out, stderr)
	}
	if status, _, stderr := objectRun("nonsense\n", "object", "gc", "--keep", "-", "--data-dir", dir); status != ExitUsage || !strings.Contains(stderr, "stdin:1:") {
		t.Errorf("gc with a bad list: %d, %s", status, stderr)
	}
}
