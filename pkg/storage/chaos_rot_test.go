//go:build linux

package storage

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// rotKeys is how many rows the file to damage has, in four namespaces, one of
// which belongs to a run; rotBig of them have values longer than a page.
const (
	rotKeys = 600
	rotBig  = 12
)

// rotFile writes a store, closes it and returns the file with every row.
func rotFile(t testing.TB) (file []byte, rows map[string][]byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rot.db")
	ctx := context.Background()
	store, err := openHooked(ctx, path, hooks{})
	if err != nil {
		t.Fatal(err)
	}
	rows = map[string][]byte{}
	rnd := rand.New(rand.NewPCG(5, 6))
	for batch := range 10 {
		_, err := core.Update(ctx, store, func(tx core.Txn) error {
			for i := batch; i < rotKeys; i += 10 {
				key, value := rotKey(i), make([]byte, rnd.IntN(400))
				if i < rotBig {
					value = make([]byte, 3000+i*1000)
				}
				for j := range value {
					value[j] = byte(rnd.Uint32())
				}
				rows[key.String()] = value
				if err := tx.Put(key, value); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := rotKeys - 40; i < rotKeys; i++ { // so that there are free pages
		if _, err := core.DeleteKey(ctx, store, rotKey(i)); err != nil {
			t.Fatal(err)
		}
		delete(rows, rotKey(i).String())
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	if file, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	return file, rows
}

func rotKey(i int) core.Key {
	ns := []core.Namespace{core.NamespaceItems, core.NamespaceJobs, core.NamespaceMeta, core.NamespaceResults}[i%4]
	k := core.NewKey(ns, fmt.Sprintf("row%05d", i), "part")
	if ns == core.NamespaceItems {
		k = k.InRun(core.RunID{15: 7})
	}
	return k
}

// rotOutcome is what came of one damaged file.
type rotOutcome int

const (
	rotRefused rotOutcome = iota // CodeCorrupt at open or at a read
	rotClean                     // every row is there and right
	rotWrong                     // a wrong value, an absence, or an error of another kind
)

// readRot opens a damaged file the way that repair says and reads everything, by
// scans and by keys.
func readRot(t testing.TB, path string, rows map[string][]byte, cfg Config) (rotOutcome, string) {
	t.Helper()
	ctx := context.Background()
	cfg.Path = path
	store, err := Open(ctx, cfg)
	if err != nil {
		return rotError("open", err)
	}
	defer store.Close()
	found := 0
	for _, ns := range []core.Namespace{core.NamespaceItems, core.NamespaceJobs, core.NamespaceMeta, core.NamespaceResults} {
		prefixes := []core.Key{core.NewKey(ns)}
		if ns == core.NamespaceItems {
			prefixes = append(prefixes, core.NewKey(ns).InRun(core.RunID{15: 7}))
		}
		for _, prefix := range prefixes {
			entries, err := store.Scan(ctx, prefix, core.ScanOptions{})
			if err != nil {
				return rotError("scan", err)
			}
			for _, e := range entries {
				want, ok := rows[e.Key.String()]
				if !ok || !bytes.Equal(want, e.Value) {
					return rotWrong, fmt.Sprintf("the scan gives another value for %s, which is there: %v", e.Key, ok)
				}
				found++
			}
		}
	}
	if found != len(rows) {
		return rotWrong, fmt.Sprintf("the scans give %d rows of %d", found, len(rows))
	}
	for i := range rotKeys {
		key := rotKey(i)
		want, there := rows[key.String()]
		es, err := store.GetMany(ctx, key)
		if err != nil {
			return rotError("get", err)
		}
		if es[0].Exists() != there || !bytes.Equal(es[0].Value, want) {
			return rotWrong, fmt.Sprintf("get %s gives another value", key)
		}
	}
	return rotClean, ""
}

func rotError(op string, err error) (rotOutcome, string) {
	if core.IsCode(err, core.CodeCorrupt) {
		return rotRefused, op
	}
	// A flipped bit in a version number is indistinguishable from a newer file, and
	// is refused all the same.
	if core.IsCode(err, core.CodeVersionMismatch) {
		return rotRefused, op + " (version)"
	}
	return rotWrong, fmt.Sprintf("%s: %v is neither corrupt nor nothing", op, err)
}

// rotRound damages the file in one of three ways and says how.
func rotDamage(rnd *rand.Rand, file []byte, kind int) (damaged []byte, what string) {
	b := bytes.Clone(file)
	switch kind {
	case 0:
		bit := rnd.IntN(len(b) * 8)
		b[bit/8] ^= 1 << (bit % 8)
		return b, fmt.Sprintf("bit %d of byte %d flipped", bit%8, bit/8)
	case 1:
		n := rnd.IntN(len(b))
		return b[:n], fmt.Sprintf("cut to %d bytes", n)
	}
	page := os.Getpagesize()
	n := rnd.IntN(len(b) / page)
	clear(b[n*page : (n+1)*page])
	return b, fmt.Sprintf("page %d zeroed", n)
}

// rot runs rounds of one kind of damage, each file opened by a tool, which
// refuses, and by a process, which may repair a meta page.
func rot(t *testing.T, rounds, kind int, bug string) (outcomes [3]int, first string) {
	t.Helper()
	file, rows := rotFile(t)
	rnd := rand.New(rand.NewPCG(chaosSeed(t), uint64(kind)))
	path := filepath.Join(t.TempDir(), "damaged.db")
	for range rounds {
		b, what := rotDamage(rnd, file, kind)
		for _, cfg := range []Config{{ReadOnly: true}, {RepairMeta: true}} {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			cfg.hooks = bugHooks(t, bug)
			outcome, why := readRot(t, path, rows, cfg)
			outcomes[outcome]++
			if outcome == rotWrong && first == "" {
				first = what + ": " + why
			}
			if outcome == rotWrong && bug != "" {
				return outcomes, first // found
			}
		}
	}
	return outcomes, first
}

// TestR7DiskRot damages a closed store: whatever is read afterwards is right, or
// the error says that the file is damaged.
func TestR7DiskRot(t *testing.T) {
	t.Parallel()
	flips := chaosCount(t, 120)
	for _, tt := range []struct {
		name   string
		kind   int
		rounds int
	}{
		{"bit flips", 0, flips},
		{"truncations", 1, max(flips/5, 40)},
		{"zeroed pages", 2, max(flips/5, 40)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			outcomes, first := rot(t, tt.rounds, tt.kind, "")
			t.Logf("%d rounds: %d refused, %d changed nothing, %d wrong", tt.rounds, outcomes[rotRefused], outcomes[rotClean], outcomes[rotWrong])
			if outcomes[rotWrong] > 0 {
				t.Errorf("%d wrong answers, the first: %s", outcomes[rotWrong], first)
			}
			if outcomes[rotRefused] == 0 {
				t.Error("nothing was refused: the run proves nothing")
			}
		})
	}
}

// TestR7FindsMissingChecksum shows that the harness above can fail.
func TestR7FindsMissingChecksum(t *testing.T) {
	outcomes, _ := rot(t, 150, 0, "no checksum")
	if outcomes[rotWrong] == 0 {
		t.Error("150 flipped bits under a store without checksums gave no wrong answer")
	}
}
