package core_test

import (
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// TestCodesArePinned keeps numbers, names and retry kinds, because all three
// travel: numbers on the wire, names in result lines, hints in error details.
func TestCodesArePinned(t *testing.T) {
	want := []struct {
		num   core.Code
		name  string
		retry core.RetryKind
	}{
		{0, "unknown", core.RetryNever}, {1, "throttled", core.RetryBackoff}, {2, "transient", core.RetryBackoff},
		{3, "preempted", core.RetryNow}, {4, "config_invalid", core.RetryNever}, {5, "schema_violation", core.RetryNever},
		{6, "plugin_contract", core.RetryNever}, {7, "internal", core.RetryNever}, {8, "invalid_argument", core.RetryNever},
		{9, "not_found", core.RetryNever}, {10, "already_exists", core.RetryNever}, {11, "conflict", core.RetryNow},
		{12, "corrupt", core.RetryNever}, {13, "fenced", core.RetryNever}, {14, "lease_lost", core.RetryNever},
		{15, "exhausted", core.RetryBackoff}, {16, "too_large", core.RetryNever}, {17, "unsupported", core.RetryNever},
		{18, "unavailable", core.RetryBackoff}, {19, "broken", core.RetryNever}, {20, "closed", core.RetryNever},
		{21, "canceled", core.RetryNever}, {22, "deadline_exceeded", core.RetryNever}, {23, "compacted", core.RetryNever},
		{24, "unauthenticated", core.RetryNever}, {25, "permission_denied", core.RetryNever},
		{26, "failed_precondition", core.RetryNever}, {27, "version_mismatch", core.RetryNever},
		{28, "plugin_error", core.RetryNever}, {29, "plugin_crashed", core.RetryBackoff},
		{30, "plugin_poisoned", core.RetryNever}, {31, "busy", core.RetryBackoff},
	}
	if got := core.Codes(); len(got) < len(want) {
		t.Fatalf("there are %d codes, %d are published: codes are append-only", len(got), len(want))
	} else if len(got) > len(want) {
		t.Fatalf("codes %v are new: pin their name and hint here", got[len(want):])
	}
	for _, w := range want {
		if w.num.String() != w.name {
			t.Errorf("code %d is named %q, published as %q", w.num, w.num, w.name)
		}
		if core.ParseCode(w.name) != w.num {
			t.Errorf("%q reads as code %d, published as %d", w.name, core.ParseCode(w.name), w.num)
		}
		if got := w.num.DefaultRetry().Kind; got != w.retry {
			t.Errorf("%s: retry kind %d, published as %d", w.name, got, w.retry)
		}
		if w.num.Recoverable() != (w.retry != core.RetryNever) {
			t.Errorf("%s: Recoverable disagrees with its hint", w.name)
		}
	}
	if core.Code(9999).Valid() || core.Code(9999).String() != "unknown" {
		t.Error("an undefined code must be invalid and read unknown")
	}
}

func TestCodeText(t *testing.T) {
	for _, c := range core.Codes() {
		b, err := c.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		var back core.Code
		if err := back.UnmarshalText(b); err != nil || back != c {
			t.Errorf("%s came back as %s, %v", c, back, err)
		}
	}
	c := core.CodeFenced
	if err := c.UnmarshalText([]byte("from_the_future")); err != nil || c != core.CodeUnknown {
		t.Errorf("a newer peer's code must read as unknown, got %s, %v", c, err)
	}
}

func TestRetryCannotContradictItsCode(t *testing.T) {
	after := core.RetryHint{Kind: core.RetryAfter, After: time.Second}
	for _, c := range core.Codes() {
		e := core.Errorf("test", c, "x")
		never := core.RetryOf(e.WithRetry(core.RetryHint{}))
		if c.Recoverable() && never.Kind == core.RetryNever {
			t.Errorf("%s can be made to say never retry", c)
		}
		got := core.RetryOf(e.WithRetry(after))
		if c.Recoverable() || c == core.CodePluginError {
			if got != after {
				t.Errorf("%s: hint %v is lost, got %v", c, after, got)
			}
		} else if got.Kind != core.RetryNever {
			t.Errorf("%s can be made to ask for a retry", c)
		}
		literal := &core.Error{Op: "test", Code: c, Err: e}
		if core.RetryOf(literal) != c.DefaultRetry() {
			t.Errorf("%s: a literal without a hint must mean the code's default", c)
		}
	}
}
