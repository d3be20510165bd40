package transport

import (
	"reflect"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// FuzzWorkItem: what a coordinator sends is a proper item or an invalid argument,
// always leased to the worker that reads it, and survives the way back.
func FuzzWorkItem(f *testing.F) {
	id := core.NewWorkerID()
	lease := core.Lease{Queue: "job/x", Item: 3, Owner: id, Epoch: 4, Token: 5}
	for _, w := range []core.WorkItem{
		{Lease: lease, Job: core.NewJobID(), Index: 6, ID: "line", Plugin: "p", Digest: "d", Method: "m", Payload: []byte("x"), Attempt: 2, Timeout: time.Second, Deadline: time.Unix(9, 8).UTC()},
		{Lease: lease, Job: core.NewJobID(), Content: core.SumContent([]byte("y"))},
	} {
		b, err := proto.Marshal(itemTo(w))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var m transportv1.WorkItem
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		w, err := itemFrom(&m, id)
		if err != nil {
			if !core.IsCode(err, core.CodeInvalidArgument) {
				t.Fatal(err)
			}
			return
		}
		back, err := itemFrom(itemTo(w), id)
		if err != nil || w.Lease.Owner != id || !back.Deadline.Equal(w.Deadline) {
			t.Fatalf("%+v came back as %+v, %v", w, back, err)
		}
		back.Deadline = w.Deadline
		if !reflect.DeepEqual(back, w) {
			t.Fatalf("%+v came back as %+v", w, back)
		}
	})
}

// FuzzWorkResult: what a worker sends can name no other worker's lease, and is a
// result, a content or an error.
func FuzzWorkResult(f *testing.F) {
	id := core.NewWorkerID()
	lease := core.Lease{Queue: "job/x", Item: 3, Owner: id, Epoch: 4, Token: 5}
	for _, r := range []core.WorkResult{
		{Lease: lease, Result: []byte("x"), Elapsed: time.Second},
		{Lease: lease, Content: core.SumContent([]byte("y"))},
		{Lease: lease, Err: core.Errorf("op", core.CodePluginCrashed, "exit status 3")},
	} {
		b, err := proto.Marshal(resultTo(r))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte{0x1a, 0x03, 1, 2, 3}) // a content id of three bytes
	f.Fuzz(func(t *testing.T, b []byte) {
		var m transportv1.WorkResult
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		r, err := resultFrom(&m, id)
		if r.Lease.Owner != id {
			t.Fatalf("the lease is of worker %s", r.Lease.Owner)
		}
		if err != nil {
			if !core.IsCode(err, core.CodeInvalidArgument) {
				t.Fatal(err)
			}
			return
		}
		back, err := resultFrom(resultTo(r), id)
		if err != nil || back.Lease != r.Lease || back.Elapsed != r.Elapsed || (back.Err == nil) != (r.Err == nil) || core.CodeOf(back.Err) != core.CodeOf(r.Err) {
			t.Fatalf("%+v came back as %+v, %v", r, back, err)
		}
	})
}
