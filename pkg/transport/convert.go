package transport

import (
	"encoding/json"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// maxInventoryBytes bounds an inventory on the wire.
const maxInventoryBytes = 256 << 10

// states pairs core's states with the wire's, in the wire's order. Read only.
var states = [...]core.WorkerState{
	transportv1.WorkerState_WORKER_STATE_INIT:     core.StateInit,
	transportv1.WorkerState_WORKER_STATE_READY:    core.StateReady,
	transportv1.WorkerState_WORKER_STATE_RUNNING:  core.StateRunning,
	transportv1.WorkerState_WORKER_STATE_DRAINING: core.StateDraining,
	transportv1.WorkerState_WORKER_STATE_DONE:     core.StateDone,
	transportv1.WorkerState_WORKER_STATE_FAILED:   core.StateFailed,
}

// stateFrom returns "" for a state of a newer peer, which nobody accepts.
func stateFrom(s transportv1.WorkerState) core.WorkerState {
	if s < 0 || int(s) >= len(states) {
		return ""
	}
	return states[s]
}

func stateTo(s core.WorkerState) transportv1.WorkerState {
	for i, v := range states {
		if v == s && s != "" {
			return transportv1.WorkerState(i)
		}
	}
	return transportv1.WorkerState_WORKER_STATE_UNSPECIFIED
}

// kinds pairs core's commands with the wire's. Read only.
var kinds = [...]core.CommandKind{
	transportv1.CommandKind_COMMAND_KIND_DRAIN:  core.CommandDrain,
	transportv1.CommandKind_COMMAND_KIND_CANCEL: core.CommandCancel,
	transportv1.CommandKind_COMMAND_KIND_RELOAD: core.CommandReload,
}

// kindFrom returns "" for a kind of a newer peer, which a worker answers with
// unsupported.
func kindFrom(k transportv1.CommandKind) core.CommandKind {
	if k < 0 || int(k) >= len(kinds) {
		return ""
	}
	return kinds[k]
}

func kindTo(k core.CommandKind) transportv1.CommandKind {
	for i, v := range kinds {
		if v == k && k != "" {
			return transportv1.CommandKind(i)
		}
	}
	return transportv1.CommandKind_COMMAND_KIND_UNSPECIFIED
}

// unixNano keeps the zero time zero: its own nanoseconds are undefined.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromUnixNano(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}

// codeFrom reads a code's number; one of a newer peer becomes unknown, which as a
// result would read as success, so it becomes internal.
func codeFrom(n uint32) core.Code {
	if n > 0xffff || !core.Code(n).Valid() {
		return core.CodeInternal
	}
	return core.Code(n)
}

func inventoryTo(inv core.Inventory) ([]byte, error) {
	b, err := json.Marshal(inv)
	if err == nil && len(b) > maxInventoryBytes {
		return nil, core.Errorf("", core.CodeTooLarge, "the inventory has %d bytes, at most %d travel", len(b), maxInventoryBytes)
	}
	return b, core.Wrap("encode inventory", core.CodeInternal, err)
}

func inventoryFrom(b []byte) (core.Inventory, error) {
	var inv core.Inventory
	if len(b) == 0 {
		return inv, nil
	}
	if len(b) > maxInventoryBytes {
		return inv, core.Errorf("", core.CodeTooLarge, "the inventory has %d bytes, at most %d are taken", len(b), maxInventoryBytes)
	}
	if err := json.Unmarshal(b, &inv); err != nil {
		return core.Inventory{}, core.Errorf("", core.CodeInvalidArgument, "the inventory is not what it should be: %w", err)
	}
	return inv, nil
}

func pluginsTo(ps []core.LoadedPlugin) []*transportv1.LoadedPlugin {
	if len(ps) == 0 {
		return nil
	}
	out := make([]*transportv1.LoadedPlugin, len(ps))
	for i, p := range ps {
		out[i] = &transportv1.LoadedPlugin{Name: p.Name, Version: p.Version, Digest: p.Digest, Mode: string(p.Mode)}
	}
	return out
}

func pluginsFrom(ps []*transportv1.LoadedPlugin) []core.LoadedPlugin {
	out := make([]core.LoadedPlugin, len(ps))
	for i, p := range ps {
		out[i] = core.LoadedPlugin{Name: p.GetName(), Version: p.GetVersion(), Digest: p.GetDigest(), Mode: core.PluginMode(p.GetMode())}
	}
	return out
}

// beatTo fills a message that a stream uses again for every beat.
func beatTo(out *transportv1.BeatRequest, h core.Heartbeat, workerID string) {
	out.WorkerId, out.Epoch, out.Seq = workerID, h.Worker.Epoch, h.Seq
	out.SentUnixNs, out.State = unixNano(h.SentAt), stateTo(h.State)
	out.ControlSeq, out.WorkOpen, out.WorkSeq = h.ControlSeq, h.WorkOpen, h.WorkSeq
	out.SlotsBusy = uint32(max(0, h.SlotsBusy))
	out.PluginsChanged, out.Plugins = h.Plugins != nil, pluginsTo(h.Plugins)
}

// beatFrom reads a beat of the worker that the certificate names.
func beatFrom(m *transportv1.BeatRequest, id core.WorkerID) (core.Heartbeat, error) {
	h := core.Heartbeat{
		Worker:     core.WorkerRef{ID: id, Epoch: m.GetEpoch()},
		Seq:        m.GetSeq(),
		SentAt:     fromUnixNano(m.GetSentUnixNs()),
		State:      stateFrom(m.GetState()),
		ControlSeq: m.GetControlSeq(),
		WorkOpen:   m.GetWorkOpen(),
		WorkSeq:    m.GetWorkSeq(),
		SlotsBusy:  int(m.GetSlotsBusy()),
	}
	if m.GetPluginsChanged() {
		h.Plugins = pluginsFrom(m.GetPlugins())
	}
	if h.State == "" {
		return h, core.Errorf("", core.CodeInvalidArgument, "the beat carries no known state")
	}
	return h, nil
}

func commandTo(c core.Command) *transportv1.Command {
	out := &transportv1.Command{Seq: c.Seq, Kind: kindTo(c.Kind), Reason: c.Reason, Plugin: c.Plugin, IssuedUnixNs: unixNano(c.IssuedAt)}
	if c.Job != (core.JobID{}) {
		out.JobId = c.Job.String()
	}
	return out
}

func commandFrom(m *transportv1.Command) (core.Command, error) {
	c := core.Command{
		Seq: m.GetSeq(), Kind: kindFrom(m.GetKind()), Reason: m.GetReason(), Plugin: m.GetPlugin(),
		IssuedAt: fromUnixNano(m.GetIssuedUnixNs()),
	}
	if m.GetJobId() != "" {
		job, err := core.ParseJobID(m.GetJobId())
		if err != nil {
			return c, err
		}
		c.Job = job
	}
	return c, nil
}

func timingFrom(h, fence, failure, skew int64) core.Timing {
	return core.Timing{
		HeartbeatInterval: time.Duration(h), SelfFence: time.Duration(fence),
		Failure: time.Duration(failure), Skew: time.Duration(skew),
	}
}
