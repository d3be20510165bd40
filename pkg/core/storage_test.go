package core_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestNamespaces(t *testing.T) {
	seen := map[core.Namespace]bool{}
	for _, n := range core.Namespaces() {
		if err := n.Validate(); err != nil || seen[n] {
			t.Errorf("%q: %v, declared twice: %v", n, err, seen[n])
		}
		seen[n] = true
	}
	for _, n := range []core.Namespace{"", "A", "1a", "a-b", "a/b", "é", core.Namespace(strings.Repeat("a", 33))} {
		if !core.IsCode(n.Validate(), core.CodeInvalidArgument) {
			t.Errorf("%q must be refused", n)
		}
	}
}

func TestKeyOrderAndCover(t *testing.T) {
	run := core.NewRunID()
	ordered := []core.Key{
		core.NewKey("a"),
		core.NewKey("a", ""),
		core.NewKey("a", "", "x"),
		core.NewKey("a", "b"),
		core.NewKey("a", "b", "c"),
		core.NewKey("a", "b\x00"),
		core.NewKey("a", "bc"),
		core.NewKey("a").InRun(run),
		core.NewKey("a", "b").InRun(run),
		core.NewKey("b"),
	}
	shuffled := slices.Clone(ordered)
	slices.Reverse(shuffled)
	slices.SortFunc(shuffled, core.Key.Compare)
	for i := range ordered {
		if !ordered[i].Equal(shuffled[i]) {
			t.Fatalf("place %d holds %s, want %s", i, shuffled[i], ordered[i])
		}
	}
	p := core.NewKey("a", "b")
	for _, k := range ordered {
		want := k.Namespace == "a" && k.Run.IsZero() && len(k.Path) > 0 && k.Path[0] == "b"
		if p.Covers(k) != want {
			t.Errorf("%s covers %s: %v", p, k, !want)
		}
	}
	if core.NewKey("a").Covers(core.NewKey("a").InRun(run)) {
		t.Error("a prefix without a run must not cover rows of a run")
	}
}

func TestKeyLimits(t *testing.T) {
	long := core.NewKey("a", strings.Repeat("x", core.MaxKeyLen))
	if err := long.Validate(); err != nil {
		t.Error(err)
	}
	if err := long.Child("y").Validate(); !core.IsCode(err, core.CodeInvalidArgument) {
		t.Errorf("a key beyond the limit: %v", err)
	}
	if err := core.NewKey("a", make([]string, core.MaxKeySegments+1)...).Validate(); !core.IsCode(err, core.CodeInvalidArgument) {
		t.Errorf("a path beyond the limit: %v", err)
	}
	base := core.NewKey("a", "b")
	c1, c2 := base.Child("c"), base.Child("d")
	if c1.Path[1] != "c" || c2.Path[1] != "d" || len(base.Path) != 1 {
		t.Error("children must not share memory")
	}
}

func TestSecretsCannotBePrinted(t *testing.T) {
	const canary = "hunter2-canary"
	s := core.NewSecret([]byte(canary))
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T"} {
		fmt.Fprintf(&b, verb+" "+verb+" "+verb+"\n", s, &s, struct{ S core.Secret }{s})
	}
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "s", s, "p", &s, "g", struct{ S core.Secret }{s})
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "s", s, "g", struct{ S core.Secret }{s})
	j, err := json.Marshal(map[string]any{"s": s, "p": &s})
	if err != nil {
		t.Fatal(err)
	}
	b.Write(j)
	if out := b.String(); strings.Contains(out, canary) || strings.Contains(out, fmt.Sprintf("%x", canary)) {
		t.Errorf("the value is printed:\n%s", out)
	}
	if _, err := s.MarshalBinary(); !core.IsCode(err, core.CodeUnsupported) {
		t.Errorf("a binary encoder must be refused: %v", err)
	}
	if string(s.Reveal()) != canary || s.Len() != len(canary) {
		t.Error("Reveal must give the value")
	}
}

func TestWorkerStates(t *testing.T) {
	all := []core.WorkerState{core.StateInit, core.StateReady, core.StateRunning, core.StateDraining, core.StateDone, core.StateFailed}
	var allowed []string
	for _, a := range all {
		if !a.Valid() || !a.CanBecome(a) {
			t.Errorf("%s must be valid and repeatable", a)
		}
		for _, b := range all {
			if a != b && a.CanBecome(b) {
				allowed = append(allowed, string(a)+">"+string(b))
			}
		}
	}
	want := "init>ready init>draining init>done init>failed ready>running ready>draining ready>done ready>failed " +
		"running>ready running>draining running>done running>failed draining>done draining>failed"
	if got := strings.Join(allowed, " "); got != want {
		t.Errorf("transitions\n%s\nwant\n%s", got, want)
	}
	if core.WorkerState("odd").Valid() || core.WorkerState("odd").CanBecome("odd") {
		t.Error("an unknown state must not be valid")
	}
}
