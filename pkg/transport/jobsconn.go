package transport

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/internal/grpcerr"
	"github.com/rollout-substrate/rollout/pkg/core"
	adminv1 "github.com/rollout-substrate/rollout/proto/rollout/admin/v1"
)

var _ core.Jobs = (*AdminConn)(nil)

// receiveAll calls each for every message of a stream until it ends.
func receiveAll[T any](op string, ss grpc.ServerStreamingClient[T], each func(*T) error) error {
	for {
		m, err := ss.Recv()
		if isEOF(err) {
			return nil
		}
		if err != nil {
			return core.WithOp(op, err)
		}
		if err := each(m); err != nil {
			return err
		}
	}
}

// assembler puts JSON values together from their parts.
type assembler struct{ buf []byte }

// add takes a part and decodes the value when it is the last one.
func (a *assembler) add(part []byte, more bool, v any) (bool, error) {
	a.buf = append(a.buf, part...)
	if more {
		return false, nil
	}
	err := json.Unmarshal(a.buf, v)
	a.buf = a.buf[:0]
	return true, core.Wrap("decode answer", core.CodeInternal, err)
}

func decodeJob(op string, b []byte) (core.Job, error) {
	var j core.Job
	err := json.Unmarshal(b, &j)
	return j, core.Wrap(op, core.CodeInternal, err)
}

// Submit implements [core.Jobs]. next is called from one goroutine.
func (a *AdminConn) Submit(ctx context.Context, spec core.JobSpec, next func() (core.JobItem, error)) (core.Job, error) {
	const op = "submit job"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	specJSON, err := encodeJSON(spec)
	if err != nil {
		return core.Job{}, core.WithOp(op, err)
	}
	cs, err := a.jobs.SubmitJob(ctx)
	if err != nil {
		return core.Job{}, core.WithOp(op, err)
	}
	w := &submitWriter{cs: cs, m: &adminv1.SubmitJobRequest{SpecJson: specJSON}}
	for {
		item, err := next()
		if errors.Is(err, io.EOF) {
			err = w.flush()
			if err == nil || isEOF(err) {
				break
			}
		}
		if err == nil {
			err = w.add(item)
		}
		if isEOF(err) {
			break // the coordinator has answered already: its reason comes below
		}
		if err != nil {
			return core.Job{}, core.WithOp(op, err)
		}
	}
	m, err := cs.CloseAndRecv()
	if err != nil {
		return core.Job{}, core.WithOp(op, err)
	}
	return decodeJob(op, m.GetJobJson())
}

// submitWriter packs items into messages.
type submitWriter struct {
	cs   grpc.ClientStreamingClient[adminv1.SubmitJobRequest, adminv1.SubmitJobResponse]
	m    *adminv1.SubmitJobRequest
	size int
	// began is when the first item of the message came: a slow source must not
	// keep items from the workers.
	began time.Time
}

// submitPause is how long items wait for others to travel with.
const submitPause = 50 * time.Millisecond

func (w *submitWriter) add(item core.JobItem) error {
	if item.Err != nil {
		e := core.Errorf("", item.Err.Code, "%s", item.Err.Message)
		return w.part(&adminv1.SubmitItem{Id: item.ID, Error: grpcerr.ToProto(e)})
	}
	return sendParts(item.Payload, func(part []byte, more bool) error {
		return w.part(&adminv1.SubmitItem{Id: item.ID, Payload: part, More: more})
	})
}

func (w *submitWriter) part(it *adminv1.SubmitItem) error {
	n := len(it.GetPayload()) + len(it.GetId()) + 64
	if w.size+n > partBytes && len(w.m.Items) > 0 {
		if err := w.flush(); err != nil {
			return err
		}
	}
	if len(w.m.Items) == 0 {
		w.began = time.Now()
	}
	w.m.Items, w.size = append(w.m.Items, it), w.size+n
	if time.Since(w.began) > submitPause {
		return w.flush()
	}
	return nil
}

func (w *submitWriter) flush() error {
	if len(w.m.Items) == 0 && w.m.SpecJson == nil {
		return nil
	}
	err := w.cs.Send(w.m)
	w.m, w.size = &adminv1.SubmitJobRequest{}, 0
	return err
}

// Jobs implements [core.Jobs].
func (a *AdminConn) Jobs(ctx context.Context, limit int) ([]core.Job, error) {
	const op = "list jobs"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ss, err := a.jobs.ListJobs(ctx, &adminv1.ListJobsRequest{Limit: uint32(max(0, limit))})
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	out := []core.Job{}
	err = receiveAll(op, ss, func(m *adminv1.ListJobsResponse) error {
		j, err := decodeJob(op, m.GetJobJson())
		out = append(out, j)
		return err
	})
	return out, err
}

// Job implements [core.Jobs].
func (a *AdminConn) Job(ctx context.Context, id core.JobID) (core.Job, error) {
	const op = "show job"
	m, err := a.jobs.GetJob(ctx, &adminv1.GetJobRequest{JobId: id.String()})
	if err != nil {
		return core.Job{}, core.WithOp(op, err)
	}
	return decodeJob(op, m.GetJobJson())
}

// WatchJob implements [core.Jobs].
func (a *AdminConn) WatchJob(ctx context.Context, id core.JobID, send func(core.Job) error) error {
	const op = "watch job"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ss, err := a.jobs.WatchJob(ctx, &adminv1.WatchJobRequest{JobId: id.String()})
	if err != nil {
		return core.WithOp(op, err)
	}
	return receiveAll(op, ss, func(m *adminv1.WatchJobResponse) error {
		j, err := decodeJob(op, m.GetJobJson())
		if err != nil {
			return err
		}
		return send(j)
	})
}

// Results implements [core.Jobs].
func (a *AdminConn) Results(ctx context.Context, id core.JobID, from int64, wait bool, send func(core.ItemResult) error) error {
	const op = "job results"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ss, err := a.jobs.GetResults(ctx, &adminv1.GetResultsRequest{JobId: id.String(), From: from, Wait: wait})
	if err != nil {
		return core.WithOp(op, err)
	}
	var parts assembler
	return receiveAll(op, ss, func(m *adminv1.GetResultsResponse) error {
		var r core.ItemResult
		whole, err := parts.add(m.GetPart(), m.GetMore(), &r)
		if err != nil || !whole {
			return err
		}
		return send(r)
	})
}

// CancelJob implements [core.Jobs].
func (a *AdminConn) CancelJob(ctx context.Context, id core.JobID, reason string) error {
	_, err := a.jobs.CancelJob(ctx, &adminv1.CancelJobRequest{JobId: id.String(), Reason: reason})
	return core.WithOp("cancel job", err)
}

// JobQueue implements [core.Jobs].
func (a *AdminConn) JobQueue(ctx context.Context, id core.JobID) (core.QueueStats, error) {
	m, err := a.jobs.GetJobQueue(ctx, &adminv1.GetJobQueueRequest{JobId: id.String()})
	if err != nil {
		return core.QueueStats{}, core.WithOp("job queue", err)
	}
	return core.QueueStats{
		Queue: "job/" + id.String(), Ready: m.GetReady(), Delayed: m.GetDelayed(), Leased: m.GetLeased(), Dead: m.GetDead(), Oldest: time.Duration(m.GetOldestNs()),
	}, nil
}

// PeekJob implements [core.Jobs].
func (a *AdminConn) PeekJob(ctx context.Context, id core.JobID, after core.ItemID, limit int) ([]core.QueueEntry, error) {
	return a.listItems(ctx, "peek job", &adminv1.ListItemsRequest{JobId: id.String(), After: uint64(after), Limit: uint32(max(0, limit))})
}

// DeadItems implements [core.Jobs].
func (a *AdminConn) DeadItems(ctx context.Context, id core.JobID, after core.ItemID, limit int) ([]core.QueueEntry, error) {
	return a.listItems(ctx, "dead items", &adminv1.ListItemsRequest{JobId: id.String(), Dead: true, After: uint64(after), Limit: uint32(max(0, limit))})
}

func (a *AdminConn) listItems(ctx context.Context, op string, req *adminv1.ListItemsRequest) ([]core.QueueEntry, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ss, err := a.jobs.ListItems(ctx, req)
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	out := []core.QueueEntry{}
	var parts assembler
	err = receiveAll(op, ss, func(m *adminv1.ListItemsResponse) error {
		var e core.QueueEntry
		whole, err := parts.add(m.GetPart(), m.GetMore(), &e)
		if whole && err == nil {
			out = append(out, e)
		}
		return err
	})
	return out, err
}

// RequeueDead implements [core.Jobs].
func (a *AdminConn) RequeueDead(ctx context.Context, id core.JobID, items ...core.ItemID) (int, error) {
	m, err := a.jobs.RequeueDead(ctx, &adminv1.RequeueDeadRequest{JobId: id.String(), Items: itemNumbers(items)})
	return int(m.GetCount()), core.WithOp("requeue dead items", err)
}

// DropDead implements [core.Jobs].
func (a *AdminConn) DropDead(ctx context.Context, id core.JobID, items ...core.ItemID) (int, error) {
	m, err := a.jobs.DropDead(ctx, &adminv1.DropDeadRequest{JobId: id.String(), Items: itemNumbers(items)})
	return int(m.GetCount()), core.WithOp("drop dead items", err)
}

func itemNumbers(ids []core.ItemID) []uint64 {
	out := make([]uint64, len(ids))
	for i, id := range ids {
		out[i] = uint64(id)
	}
	return out
}
