package pyembed

import (
	"os"
	"strconv"
	"testing"
)

// rounds returns the count of a fault run: ROLLOUT_CHAOS_COUNT, or few in CI.
func rounds(t testing.TB, few int) int {
	t.Helper()
	text := os.Getenv("ROLLOUT_CHAOS_COUNT")
	if text == "" {
		return few
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("ROLLOUT_CHAOS_COUNT=%q: want a positive number", text)
	}
	return n
}
