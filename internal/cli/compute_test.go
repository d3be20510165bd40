package cli

import (
	"encoding/json"
	"os"
	"runtime"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestAWorkerTellsWhatItsMachineIs(t *testing.T) {
	s := newSite(t)
	w := s.worker("w1")
	ev := s.coord.await(core.TopicWorkerRegistered, 1)
	if inv, ok := ev.Attrs["inventory"].(map[string]any); !ok || len(inv) == 0 {
		t.Errorf("worker_registered carries the inventory %v", ev.Attrs["inventory"])
	}
	s.coord.await(core.TopicWorkerState, 1)
	out, stderr, code := s.rollout("workers", "--json")
	var rows []core.WorkerRow
	if err := json.Unmarshal([]byte(out), &rows); err != nil || code != ExitOK || len(rows) != 1 {
		t.Fatalf("workers --json: %v, status %d, %s%s", err, code, out, stderr)
	}
	inv := rows[0].Inventory
	if inv.OS != runtime.GOOS || inv.Arch != runtime.GOARCH || inv.CPU.UsableMilli.Value <= 0 || inv.Disk.Path != s.path("w1") {
		t.Errorf("the inventory is %+v", inv)
	}
	if code := w.exit(); code != ExitOK {
		t.Errorf("it ends with %d: %s", code, w.lastLine())
	}
}

func TestAPreemptionNoticeDrainsTheWorker(t *testing.T) {
	s := newSite(t)
	notice := s.path("notice")
	t.Setenv("ROLLOUT_WORKER_PREEMPTION_NOTICE_FILE", notice)
	w := s.worker("w1")
	s.coord.await(core.TopicWorkerState, 1)
	if err := os.WriteFile(notice, []byte("120s host maintenance\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code := w.wait(); code != ExitOK {
		t.Errorf("it ends with %d: %s", code, w.lastLine())
	}
	ev := s.coord.await(core.TopicWorkerDeregistered, 1)
	if reason, _ := ev.Attrs["reason"].(string); reason != "preemption: host maintenance" {
		t.Errorf("it left with %v", ev.Attrs)
	}
}
