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

const (
	partBytes    = 512 << 10 // of one message of a value that is larger
	defaultItems = 100       // items listed where no limit is named
	itemsPage    = 64        // items of a list that are in memory at a time
	watchPause   = 100 * time.Millisecond
)

// jobsService puts a [core.Jobs] on the wire.
type jobsService struct {
	adminv1.UnimplementedJobsServer
	jobs core.Jobs
}

// sendParts sends b in messages of a bounded size.
func sendParts(b []byte, send func(part []byte, more bool) error) error {
	for {
		n := min(len(b), partBytes)
		if err := send(b[:n], n < len(b)); err != nil || n == len(b) {
			return err
		}
		b = b[n:]
	}
}

func encodeJSON(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return b, core.Wrap("encode answer", core.CodeInternal, err)
}

// SubmitJob reads a job and its items.
func (j *jobsService) SubmitJob(ss grpc.ClientStreamingServer[adminv1.SubmitJobRequest, adminv1.SubmitJobResponse]) error {
	const op = "submit job"
	first, err := ss.Recv()
	if err != nil {
		return err
	}
	var spec core.JobSpec
	if err := json.Unmarshal(first.GetSpecJson(), &spec); err != nil {
		return core.Errorf(op, core.CodeInvalidArgument, "the job is not what it should be: %w", err)
	}
	r := &submitReader{ss: ss, items: first.GetItems()}
	job, err := j.jobs.Submit(ss.Context(), spec, r.next)
	if err != nil {
		return err
	}
	b, err := encodeJSON(job)
	if err != nil {
		return err
	}
	return ss.SendAndClose(&adminv1.SubmitJobResponse{JobJson: b})
}

// submitReader puts items together from their parts.
type submitReader struct {
	ss    grpc.ClientStreamingServer[adminv1.SubmitJobRequest, adminv1.SubmitJobResponse]
	items []*adminv1.SubmitItem
}

func (r *submitReader) next() (core.JobItem, error) {
	var item core.JobItem
	for started := false; ; started = true {
		for len(r.items) == 0 {
			m, err := r.ss.Recv()
			if errors.Is(err, io.EOF) && started {
				err = core.Errorf("submit job", core.CodeInvalidArgument, "the last line ended in its middle")
			}
			if err != nil {
				return core.JobItem{}, err
			}
			r.items = m.GetItems()
		}
		part := r.items[0]
		r.items = r.items[1:]
		if !started {
			item.ID = part.GetId()
		}
		if e := part.GetError(); e != nil {
			err := grpcerr.FromProto(e)
			item.Err = &core.ItemError{Code: core.CodeOf(err), Message: e.GetMessage()}
			return item, nil
		}
		// A line longer than a plugin may be given becomes an error line, so its
		// bytes beyond the limit are of no use.
		if room := core.MaxCallPayload + 1 - len(item.Payload); room > 0 {
			item.Payload = append(item.Payload, part.GetPayload()[:min(room, len(part.GetPayload()))]...)
		}
		if !part.GetMore() {
			return item, nil
		}
	}
}

// ListJobs streams jobs.
func (j *jobsService) ListJobs(m *adminv1.ListJobsRequest, ss grpc.ServerStreamingServer[adminv1.ListJobsResponse]) error {
	jobs, err := j.jobs.Jobs(ss.Context(), int(m.GetLimit()))
	if err != nil {
		return err
	}
	for _, job := range jobs {
		b, err := encodeJSON(job)
		if err != nil {
			return err
		}
		if err := ss.Send(&adminv1.ListJobsResponse{JobJson: b}); err != nil {
			return err
		}
	}
	return nil
}

// GetJob returns one job.
func (j *jobsService) GetJob(ctx context.Context, m *adminv1.GetJobRequest) (*adminv1.GetJobResponse, error) {
	id, err := core.ParseJobID(m.GetJobId())
	if err != nil {
		return nil, err
	}
	job, err := j.jobs.Job(ctx, id)
	if err != nil {
		return nil, err
	}
	b, err := encodeJSON(job)
	return &adminv1.GetJobResponse{JobJson: b}, err
}

// WatchJob sends a job as it changes, at most ten times a second.
func (j *jobsService) WatchJob(m *adminv1.WatchJobRequest, ss grpc.ServerStreamingServer[adminv1.WatchJobResponse]) error {
	id, err := core.ParseJobID(m.GetJobId())
	if err != nil {
		return err
	}
	return j.jobs.WatchJob(ss.Context(), id, func(job core.Job) error {
		b, err := encodeJSON(job)
		if err != nil {
			return err
		}
		if err := ss.Send(&adminv1.WatchJobResponse{JobJson: b}); err != nil {
			return err
		}
		pause := time.NewTimer(watchPause)
		defer pause.Stop()
		select {
		case <-pause.C:
		case <-ss.Context().Done():
		}
		return nil
	})
}

// GetResults streams results.
func (j *jobsService) GetResults(m *adminv1.GetResultsRequest, ss grpc.ServerStreamingServer[adminv1.GetResultsResponse]) error {
	id, err := core.ParseJobID(m.GetJobId())
	if err != nil {
		return err
	}
	return j.jobs.Results(ss.Context(), id, m.GetFrom(), m.GetWait(), func(r core.ItemResult) error {
		b, err := encodeJSON(r)
		if err != nil {
			return err
		}
		return sendParts(b, func(part []byte, more bool) error {
			return ss.Send(&adminv1.GetResultsResponse{Part: part, More: more})
		})
	})
}

// CancelJob stops a job.
func (j *jobsService) CancelJob(ctx context.Context, m *adminv1.CancelJobRequest) (*adminv1.CancelJobResponse, error) {
	id, err := core.ParseJobID(m.GetJobId())
	if err != nil {
		return nil, err
	}
	return &adminv1.CancelJobResponse{}, j.jobs.CancelJob(ctx, id, m.GetReason())
}

// GetJobQueue counts a job's items.
func (j *jobsService) GetJobQueue(ctx context.Context, m *adminv1.GetJobQueueRequest) (*adminv1.GetJobQueueResponse, error) {
	id, err := core.ParseJobID(m.GetJobId())
	if err != nil {
		return nil, err
	}
	st, err := j.jobs.JobQueue(ctx, id)
	if err != nil {
		return nil, err
	}
	return &adminv1.GetJobQueueResponse{Ready: st.Ready, Delayed: st.Delayed, Leased: st.Leased, Dead: st.Dead, OldestNs: int64(st.Oldest)}, nil
}

// ListItems streams items of a job.
func (j *jobsService) ListItems(m *adminv1.ListItemsRequest, ss grpc.ServerStreamingServer[adminv1.ListItemsResponse]) error {
	id, err := core.ParseJobID(m.GetJobId())
	if err != nil {
		return err
	}
	limit := int(m.GetLimit())
	if limit == 0 {
		limit = defaultItems
	}
	list := j.jobs.PeekJob
	if m.GetDead() {
		list = j.jobs.DeadItems
	}
	after := core.ItemID(m.GetAfter())
	for limit > 0 {
		items, err := list(ss.Context(), id, after, min(limit, itemsPage))
		if err != nil || len(items) == 0 {
			return err
		}
		limit, after = limit-len(items), items[len(items)-1].ID
		for _, it := range items {
			if err := sendItem(ss, it); err != nil {
				return err
			}
		}
	}
	return nil
}

func sendItem(ss grpc.ServerStreamingServer[adminv1.ListItemsResponse], it core.QueueEntry) error {
	b, err := encodeJSON(it)
	if err != nil {
		return err
	}
	return sendParts(b, func(part []byte, more bool) error {
		return ss.Send(&adminv1.ListItemsResponse{Part: part, More: more})
	})
}

// RequeueDead makes dead items ready.
func (j *jobsService) RequeueDead(ctx context.Context, m *adminv1.RequeueDeadRequest) (*adminv1.RequeueDeadResponse, error) {
	id, err := core.ParseJobID(m.GetJobId())
	if err != nil {
		return nil, err
	}
	n, err := j.jobs.RequeueDead(ctx, id, itemIDs(m.GetItems())...)
	return &adminv1.RequeueDeadResponse{Count: uint32(n)}, err
}

// DropDead removes dead items.
func (j *jobsService) DropDead(ctx context.Context, m *adminv1.DropDeadRequest) (*adminv1.DropDeadResponse, error) {
	id, err := core.ParseJobID(m.GetJobId())
	if err != nil {
		return nil, err
	}
	n, err := j.jobs.DropDead(ctx, id, itemIDs(m.GetItems())...)
	return &adminv1.DropDeadResponse{Count: uint32(n)}, err
}

func itemIDs(ns []uint64) []core.ItemID {
	out := make([]core.ItemID, len(ns))
	for i, n := range ns {
		out[i] = core.ItemID(n)
	}
	return out
}
