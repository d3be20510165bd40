package transport

import (
	"time"

	"github.com/rollout-substrate/rollout/internal/grpcerr"
	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

func leaseTo(l core.Lease) *transportv1.WorkLease {
	return &transportv1.WorkLease{Queue: l.Queue, Item: uint64(l.Item), Epoch: l.Epoch, Token: l.Token}
}

func leasesTo(ls []core.Lease) []*transportv1.WorkLease {
	out := make([]*transportv1.WorkLease, len(ls))
	for i, l := range ls {
		out[i] = leaseTo(l)
	}
	return out
}

// leaseFrom gives the lease to the worker of the stream: a message cannot name
// another owner.
func leaseFrom(m *transportv1.WorkLease, owner core.WorkerID) core.Lease {
	return core.Lease{Queue: m.GetQueue(), Item: core.ItemID(m.GetItem()), Owner: owner, Epoch: m.GetEpoch(), Token: m.GetToken()}
}

func leasesFrom(ms []*transportv1.WorkLease, owner core.WorkerID) []core.Lease {
	out := make([]core.Lease, len(ms))
	for i, m := range ms {
		out[i] = leaseFrom(m, owner)
	}
	return out
}

func itemTo(w core.WorkItem) *transportv1.WorkItem {
	m := &transportv1.WorkItem{
		Lease: leaseTo(w.Lease), JobId: w.Job.String(), Index: w.Index, Id: w.ID, Plugin: w.Plugin, Digest: w.Digest, Method: w.Method,
		Payload: w.Payload, Attempt: uint32(max(0, w.Attempt)), TimeoutNs: int64(w.Timeout), DeadlineUnixNs: unixNano(w.Deadline),
	}
	if !w.Content.IsZero() {
		m.Content = w.Content[:]
	}
	return m
}

func itemFrom(m *transportv1.WorkItem, owner core.WorkerID) (core.WorkItem, error) {
	job, err := core.ParseJobID(m.GetJobId())
	if err != nil {
		return core.WorkItem{}, err
	}
	content, err := contentFrom(m.GetContent())
	if err != nil {
		return core.WorkItem{}, err
	}
	return core.WorkItem{
		Lease: leaseFrom(m.GetLease(), owner), Job: job, Index: m.GetIndex(), ID: m.GetId(), Plugin: m.GetPlugin(), Digest: m.GetDigest(), Method: m.GetMethod(),
		Payload: m.GetPayload(), Content: content, Attempt: int(m.GetAttempt()), Timeout: time.Duration(m.GetTimeoutNs()), Deadline: fromUnixNano(m.GetDeadlineUnixNs()),
	}, nil
}

// contentFrom reads the 32 bytes of a content id; none are the zero id.
func contentFrom(b []byte) (core.ContentID, error) {
	var id core.ContentID
	if len(b) != 0 && len(b) != len(id) {
		return id, core.Errorf("", core.CodeInvalidArgument, "a content id has %d bytes, not %d", len(b), len(id))
	}
	copy(id[:], b)
	return id, nil
}

func resultTo(r core.WorkResult) *transportv1.WorkResult {
	m := &transportv1.WorkResult{Lease: leaseTo(r.Lease), ElapsedNs: int64(r.Elapsed)}
	switch {
	case r.Err != nil:
		m.Error = grpcerr.ToProto(r.Err)
	case !r.Content.IsZero():
		m.Content = r.Content[:]
	default:
		m.Result = r.Result
	}
	return m
}

func resultFrom(m *transportv1.WorkResult, owner core.WorkerID) (core.WorkResult, error) {
	content, err := contentFrom(m.GetContent())
	r := core.WorkResult{
		Lease: leaseFrom(m.GetLease(), owner), Result: m.GetResult(), Content: content, Elapsed: time.Duration(m.GetElapsedNs()),
	}
	if m.GetError() != nil {
		r.Err = grpcerr.FromProto(m.GetError())
	}
	return r, err
}
