package transport

import (
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	adminv1 "github.com/rollout-substrate/rollout/proto/rollout/admin/v1"
)

func statusTo(st core.Status) *adminv1.GetStatusResponse {
	out := &adminv1.GetStatusResponse{
		RunId: st.Run.String(), Epoch: st.Epoch, Version: st.Version, Addr: st.Addr, Protocol: st.Protocol,
		StartedUnixNs: unixNano(st.StartedAt), HeartbeatIntervalNs: int64(st.Timing.HeartbeatInterval),
		SelfFenceNs: int64(st.Timing.SelfFence), FailureNs: int64(st.Timing.Failure), SkewNs: int64(st.Timing.Skew),
		Workers: make(map[string]uint64, len(st.Workers)), Revision: st.Revision, StoreBytes: st.StoreBytes, MassFailure: st.MassFailure,
	}
	for k, n := range st.Workers {
		out.Workers[string(k)] = uint64(max(0, n))
	}
	return out
}

func statusFrom(m *adminv1.GetStatusResponse) (core.Status, error) {
	run, err := core.ParseRunID(m.GetRunId())
	if err != nil {
		return core.Status{}, err
	}
	st := core.Status{
		Run: run, Epoch: m.GetEpoch(), Version: m.GetVersion(), Addr: m.GetAddr(), Protocol: m.GetProtocol(),
		StartedAt: fromUnixNano(m.GetStartedUnixNs()),
		Timing:    timingFrom(m.GetHeartbeatIntervalNs(), m.GetSelfFenceNs(), m.GetFailureNs(), m.GetSkewNs()),
		Workers:   make(map[core.Liveness]int, len(m.GetWorkers())), Revision: m.GetRevision(),
		StoreBytes: m.GetStoreBytes(), MassFailure: m.GetMassFailure(),
	}
	for k, n := range m.GetWorkers() {
		st.Workers[core.Liveness(k)] = int(n)
	}
	return st, nil
}

func workerTo(r *core.WorkerRow) (*adminv1.Worker, error) {
	inv, err := inventoryTo(r.Inventory)
	if err != nil {
		return nil, err
	}
	return &adminv1.Worker{
		WorkerId: r.ID.String(), State: stateTo(r.State), Liveness: string(r.Liveness), Epoch: r.Epoch, Addr: r.Addr,
		Version: r.Version, RegisteredUnixNs: unixNano(r.RegisteredAt), LastSeenUnixNs: unixNano(r.LastSeenAt),
		BeatSeq: r.BeatSeq, Slots: int64(r.Slots), SlotsBusy: int64(r.SlotsBusy), SkewMs: r.SkewMS, CertSerial: r.CertSerial,
		InventoryJson: inv, Plugins: pluginsTo(r.Plugins),
	}, nil
}

func workerFrom(m *adminv1.Worker) (core.WorkerRow, error) {
	id, err := core.ParseWorkerID(m.GetWorkerId())
	if err != nil {
		return core.WorkerRow{}, err
	}
	inv, err := inventoryFrom(m.GetInventoryJson())
	if err != nil {
		return core.WorkerRow{}, err
	}
	return core.WorkerRow{
		ID: id, State: stateFrom(m.GetState()), Liveness: core.Liveness(m.GetLiveness()), Epoch: m.GetEpoch(), Addr: m.GetAddr(),
		Version: m.GetVersion(), RegisteredAt: fromUnixNano(m.GetRegisteredUnixNs()), LastSeenAt: fromUnixNano(m.GetLastSeenUnixNs()),
		BeatSeq: m.GetBeatSeq(), Slots: int(m.GetSlots()), SlotsBusy: int(m.GetSlotsBusy()), SkewMS: m.GetSkewMs(),
		CertSerial: m.GetCertSerial(), Inventory: inv, Plugins: pluginsFrom(m.GetPlugins()),
	}, nil
}

// maxTokenUses keeps the number of uses inside what every int can hold.
const maxTokenUses = 1 << 30

func tokenSpecFrom(m *adminv1.CreateTokenRequest) (core.TokenSpec, error) {
	if m.GetTtlNs() < 0 || m.GetUses() > maxTokenUses {
		return core.TokenSpec{}, core.Errorf("create token", core.CodeInvalidArgument, "a token lasts 0 or longer and has at most %d uses", maxTokenUses)
	}
	return core.TokenSpec{TTL: time.Duration(m.GetTtlNs()), Uses: int(m.GetUses())}, nil
}
