package parts

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// echo answers every payload with itself.
func echo(part [][]byte) ([]core.CallResult, error) {
	out := make([]core.CallResult, len(part))
	for i, p := range part {
		out[i].Result = p
	}
	return out, nil
}

func TestAnswersKeepTheirOrder(t *testing.T) {
	payloads := make([][]byte, 10)
	for i := range payloads {
		payloads[i] = fmt.Append(nil, i)
	}
	three := func(rest [][]byte) int { return min(3, len(rest)) }
	calls, broken := 0, errors.New("broken")
	for _, failing := range []int{0, 1, 2, 4} { // the part that fails; 0: none
		calls = 0
		out, err := Answer(payloads, three, func(part [][]byte) ([]core.CallResult, error) {
			if calls++; calls == failing {
				return nil, broken
			}
			return echo(part)
		})
		if failing == 1 {
			if err != broken || out != nil {
				t.Errorf("first part fails: %v, %v", out, err)
			}
			continue
		}
		if err != nil || len(out) != len(payloads) {
			t.Fatalf("part %d fails: %d answers, %v", failing, len(out), err)
		}
		for i, r := range out {
			lost := failing > 0 && i >= 3*(failing-1)
			if lost != (r.Err == broken) || !lost && string(r.Result) != string(payloads[i]) {
				t.Errorf("part %d fails: answer %d is %q, %v", failing, i, r.Result, r.Err)
			}
		}
		if failing > 0 && calls != failing {
			t.Errorf("part %d fails, and %d were tried", failing, calls)
		}
	}
	if out, err := Answer(nil, three, echo); err != nil || len(out) != 0 {
		t.Errorf("nothing: %v, %v", out, err)
	}
}

func TestBySize(t *testing.T) {
	half, whole := make([]byte, core.MaxCallPayload/2), make([]byte, core.MaxCallPayload)
	for _, tt := range []struct {
		payloads [][]byte
		want     int
	}{
		{[][]byte{nil}, 1}, {[][]byte{half, half, nil}, 3}, {[][]byte{half, half, {1}}, 2}, {[][]byte{whole, whole}, 1},
	} {
		if got := BySize(tt.payloads); got != tt.want {
			t.Errorf("%d payloads: a part of %d, want %d", len(tt.payloads), got, tt.want)
		}
	}
}
