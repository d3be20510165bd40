package pluginhost

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func TestFramedSidecar(t *testing.T) {
	h, rec := testHost(t, nil)
	m := sampleManifest(t, "sample")
	m.Config = map[string]any{"a": 1, "farewell": "goodbye"}
	info := mustLoad(t, h, m)
	t.Logf("%+v", info)
	if got := mustCall(t, h, "sample", "echo", "hi"); got != "hi" {
		t.Errorf("echo: %q", got)
	}
	if got := mustCall(t, h, "sample", "config", ""); !strings.Contains(got, "'a': 1") {
		t.Errorf("config: %q", got)
	}
	_, err := h.Call(context.Background(), "sample", "raise", []byte("broken thing"))
	if !core.IsCode(err, core.CodePluginError) || !strings.Contains(err.Error(), "ValueError: broken thing") {
		t.Errorf("raise: %v", err)
	}
	if _, err := h.Call(context.Background(), "sample", "nothing", nil); !core.IsCode(err, core.CodePluginContract) {
		t.Errorf("unknown method: %v", err)
	}
	mustCall(t, h, "sample", "print", "printed")
	rec.wait(t, "printed line", func(ev core.PluginEvent) bool { return ev.Line == "printed" && ev.Info.ID == "sample-1.0.0" })
	rec.wait(t, "raw line", func(ev core.PluginEvent) bool { return ev.Line == "raw stdout" })
	t.Log(mustCall(t, h, "sample", "env", ""))

	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := h.Call(ctx, "sample", "spin", []byte("300")); !core.IsCode(err, core.CodeDeadlineExceeded) {
		t.Errorf("spin: %v", err)
	}
	if got := mustCall(t, h, "sample", "echo", "again"); got != "again" {
		t.Errorf("echo after spin: %q", got)
	}
	_, err = h.Call(context.Background(), "sample", "exit", []byte("7"))
	if !core.IsCode(err, core.CodePluginCrashed) || !strings.Contains(err.Error(), "exit status 7") || !strings.Contains(err.Error(), "last words") {
		t.Errorf("exit: %v", err)
	}
	if got := mustCall(t, h, "sample", "echo", "after crash"); got != "after crash" {
		t.Errorf("echo after crash: %q", got)
	}
	if err := h.Unload(context.Background(), "sample"); err != nil {
		t.Error(err)
	}
	rec.wait(t, "farewell", func(ev core.PluginEvent) bool { return ev.Line == "goodbye" })
}
