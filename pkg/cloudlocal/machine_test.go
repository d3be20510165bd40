package cloudlocal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
)

func TestThisMachine(t *testing.T) {
	coretest.RunComputeHint(t, func(t *testing.T) *coretest.ComputeHintFixture {
		t.Cleanup(func() { goleak.VerifyNone(t, goleak.IgnoreCurrent()) })
		file := filepath.Join(t.TempDir(), "later", "notice")
		return &coretest.ComputeHintFixture{
			Hint: NewMachine(MachineConfig{DataDir: t.TempDir(), NoticeFile: file}),
			Announce: func(lead time.Duration) error {
				return errors.Join(os.MkdirAll(filepath.Dir(file), 0o700), os.WriteFile(file, []byte(lead.String()+"\n"), 0o600))
			},
		}
	}, coretest.ComputeHintOptions{})
	inv, err := NewMachine(MachineConfig{}).Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.MarshalIndent(inv, "", "  ")
	if err != nil || inv.Disk.TotalMiB == 0 {
		t.Error(inv.Disk, err)
	}
	t.Logf("%s", b)
}

// TestInventoryLeavesAStuckDriver has a driver that never answers.
func TestInventoryLeavesAStuckDriver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		asked := 0
		m := NewMachine(MachineConfig{GPUs: func() ([]core.GPUInfo, string, []string) {
			asked++
			<-release
			return []core.GPUInfo{{Name: "late"}}, "", nil
		}})
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			_, err := m.Inventory(ctx)
			wantCode(t, "an inventory behind a stuck driver", err, core.CodeDeadlineExceeded)
			cancel()
		}
		close(release)
		inv, err := m.Inventory(t.Context())
		if err != nil || len(inv.GPUs) != 1 || asked != 1 {
			t.Errorf("%+v, %v, the driver was asked %d times", inv.GPUs, err, asked)
		}
	})
}

func TestParseNotice(t *testing.T) {
	written := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(d time.Duration) time.Time { return written.Add(d) }
	for text, want := range map[string]core.Preemption{
		"":                            {},
		" \n":                         {},
		"120s":                        {At: at(2 * time.Minute)},
		"2m host maintenance":         {At: at(2 * time.Minute), Reason: "host maintenance"},
		"90s\nbecause\nof it":         {At: at(90 * time.Second), Reason: "because\nof it"},
		"-5s":                         {At: written},
		"2026-01-02T03:14:05Z":        {At: at(10 * time.Minute)},
		"2026-01-02T04:14:05+01:00 x": {At: at(10 * time.Minute), Reason: "x"},
		"soon":                        {Reason: "soon"},
		`{"action": "terminate", "time": "2026-01-02T03:14:05Z"}`:  {At: at(10 * time.Minute), Reason: "terminate"},
		`{"action": "stop", "reason": "maintenance", "lead":"1m"}`: {At: at(time.Minute), Reason: "maintenance"},
		`{"time": 5}`: {Reason: `{"time": 5}`},
		`{}`:          {},
		"a\xffb":      {Reason: "ab"},
	} {
		got := ParseNotice(text, written)
		if !got.At.Equal(want.At) || got.Reason != want.Reason {
			t.Errorf("%q: %+v, want %+v", text, got, want)
		}
	}
}

func FuzzParseNotice(f *testing.F) {
	for _, s := range []string{"", "120s", "2m x", "{}", `{"lead":"1m"}`, "2026-01-02T03:14:05Z", "9999999999h", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) { ParseNotice(s, time.Unix(0, 0)) })
}

// TestEmptyNotice makes an empty file: it is an announcement with nothing known.
func TestEmptyNotice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "notice")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := NewMachine(MachineConfig{NoticeFile: file}).Preemption(t.Context())
	if err != nil || !p.At.IsZero() || p.Source != file {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestNoticeThatCannotBeRead names a directory.
func TestNoticeThatCannotBeRead(t *testing.T) {
	_, err := NewMachine(MachineConfig{NoticeFile: t.TempDir()}).Preemption(t.Context())
	if err == nil {
		t.Error("a directory was taken for a notice")
	}
}

func ExampleParseNotice() {
	p := ParseNotice("2m host maintenance", time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC))
	fmt.Println(p.At.Format(time.RFC3339), p.Reason)
	// Output: 2026-01-02T15:02:00Z host maintenance
}
