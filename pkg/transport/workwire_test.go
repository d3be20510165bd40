package transport

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/rollout-substrate/rollout/internal/grpcerr"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/memstore"
	adminv1 "github.com/rollout-substrate/rollout/proto/rollout/admin/v1"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

var workPlugins = []core.LoadedPlugin{{Name: "reward", Version: "1", Digest: "d1", Mode: core.ModeSidecar}}

// certConn dials with a certificate of a role.
func (w *workHarness) certConn(role Role, name string) *grpc.ClientConn {
	w.t.Helper()
	return w.rawConn(w.showing(w.forge(w.auth, &x509.Certificate{
		URIs:        []*url.URL{spiffeURI(w.auth.run, role, name)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, time.Hour, time.Time{})))
}

// TestRolesAreKeptApart calls every method of every service with the certificate of
// the other role, and asks the table about each.
func TestRolesAreKeptApart(t *testing.T) {
	w := newWorkHarness(t, ProtocolH2, memstore.New(memstore.Options{}))
	id := core.NewWorkerID()
	conns := map[Role]*grpc.ClientConn{RoleWorker: w.certConn(RoleWorker, id.String()), RoleAdmin: w.certConn(RoleAdmin, "ops")}
	services := map[Role][]grpc.ServiceDesc{
		RoleWorker: {transportv1.Registry_ServiceDesc, transportv1.Heartbeat_ServiceDesc, transportv1.Control_ServiceDesc, transportv1.Work_ServiceDesc, transportv1.Blob_ServiceDesc},
		RoleAdmin:  {adminv1.Admin_ServiceDesc, adminv1.Jobs_ServiceDesc},
	}
	other := map[Role]Role{RoleWorker: RoleAdmin, RoleAdmin: RoleWorker}
	n := 0
	for role, descs := range services {
		cc := conns[other[role]]
		for _, d := range descs {
			for _, m := range d.Methods {
				method := "/" + d.ServiceName + "/" + m.MethodName
				if method == enrolMethod {
					continue // anybody may ask to enrol
				}
				err := cc.Invoke(ctxFor(t), method, &emptypb.Empty{}, &emptypb.Empty{})
				wantRefused(t, role, method, err)
				n++
			}
			for _, s := range d.Streams {
				method := "/" + d.ServiceName + "/" + s.StreamName
				cs, err := cc.NewStream(ctxFor(t), &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
				if err == nil {
					err = errors.Join(cs.SendMsg(&emptypb.Empty{}), cs.CloseSend())
					if rerr := cs.RecvMsg(&emptypb.Empty{}); rerr != nil {
						err = rerr
					}
				}
				wantRefused(t, role, method, err)
				n++
			}
		}
	}
	if n < 28 {
		t.Errorf("only %d methods were tried", n)
	}
}

func wantRefused(t *testing.T, role Role, method string, err error) {
	t.Helper()
	if got := roleOf(method); got != role {
		t.Errorf("%s belongs to the role %q, want %q", method, got, role)
	}
	if err := grpcerr.FromStatus("test", err); !core.IsCode(err, core.CodePermissionDenied) {
		t.Errorf("%s with the other role's certificate: %v", method, err)
	}
}

// attached opens a work stream by hand.
func (w *workHarness) attached(id core.WorkerID) transportv1.Work_StreamClient {
	w.t.Helper()
	cs, err := transportv1.NewWorkClient(w.certConn(RoleWorker, id.String())).Stream(ctxFor(w.t))
	if err != nil {
		w.t.Fatal(err)
	}
	err = cs.Send(&transportv1.WorkStreamRequest{WorkerId: id.String(), Say: &transportv1.WorkStreamRequest_Attach{Attach: &transportv1.WorkAttach{Epoch: 1, Plugins: pluginsTo(workPlugins)}}})
	if err != nil {
		w.t.Fatal(err)
	}
	if m, err := cs.Recv(); err != nil || m.GetAttached() == nil {
		w.t.Fatalf("the attach was answered %v, %v", m, err)
	}
	return cs
}

// TestWorkStreamRefusesWhatIsNoConversation sends messages that no worker sends.
func TestWorkStreamRefusesWhatIsNoConversation(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		w := newWorkHarness(t, p, memstore.New(memstore.Options{}))
		id := core.NewWorkerID()
		pull := &transportv1.WorkStreamRequest{WorkerId: id.String(), Say: &transportv1.WorkStreamRequest_Pull{Pull: &transportv1.WorkPull{Slots: 1}}}
		for name, msgs := range map[string][]*transportv1.WorkStreamRequest{
			"nothing":              {{WorkerId: id.String()}},
			"pull upon pull":       {pull, pull, pull},
			"a second attach":      {{WorkerId: id.String(), Say: &transportv1.WorkStreamRequest_Attach{Attach: &transportv1.WorkAttach{Epoch: 1}}}},
			"nothing known at all": {{WorkerId: id.String(), Say: nil}},
		} {
			cs := w.attached(id)
			for _, m := range msgs {
				if err := cs.Send(m); err != nil {
					break // refused already; the reason comes below
				}
			}
			m, err := cs.Recv()
			if err := grpcerr.FromStatus("test", err); !core.IsCode(err, core.CodeInvalidArgument) {
				t.Errorf("%s: %v, %v", name, m, err)
			}
		}
		cs, err := transportv1.NewWorkClient(w.certConn(RoleWorker, id.String())).Stream(ctxFor(t))
		if err == nil {
			err = cs.Send(pull)
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cs.Recv(); !core.IsCode(grpcerr.FromStatus("test", err), core.CodeInvalidArgument) {
			t.Errorf("a stream that begins with a pull: %v", err)
		}
	})
}

// TestWorkStreamAnswersBadResultsOneByOne sends a result that cannot be read between
// two that can.
func TestWorkStreamAnswersBadResultsOneByOne(t *testing.T) {
	w := newWorkHarness(t, ProtocolH2, memstore.New(memstore.Options{}))
	job, err := w.book.Submit(t.Context(), core.JobSpec{Plugin: "reward", Digest: "d1", Method: "score"}, linesOf("a", "b", "c"))
	if err != nil {
		t.Fatal(err)
	}
	id := core.NewWorkerID()
	cs := w.attached(id)
	send := func(m *transportv1.WorkStreamRequest) *transportv1.WorkStreamResponse {
		t.Helper()
		m.WorkerId = id.String()
		if err := cs.Send(m); err != nil {
			t.Fatal(err)
		}
		got, err := cs.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	var results []*transportv1.WorkResult
	for len(results) < 3 {
		m := send(&transportv1.WorkStreamRequest{Say: &transportv1.WorkStreamRequest_Pull{Pull: &transportv1.WorkPull{Slots: 1}}})
		for _, it := range m.GetItems().GetItems() {
			results = append(results, &transportv1.WorkResult{Lease: it.GetLease(), Result: []byte("1")})
		}
	}
	results[1].Content = []byte("three bytes short")
	m := send(&transportv1.WorkStreamRequest{Say: &transportv1.WorkStreamRequest_Results{Results: &transportv1.WorkResults{Batch: 9, Results: results}}})
	o := m.GetOutcomes()
	if o.GetBatch() != 9 || len(o.GetErrors()) != 3 {
		t.Fatalf("answered %v", m)
	}
	for i, want := range []core.Code{0, core.CodeInvalidArgument, 0} {
		if got := core.CodeOf(fromProto(o.GetErrors()[i])); got != want {
			t.Errorf("result %d is answered %v, want %v", i, got, want)
		}
	}
	if c := must(w.book.Job(t.Context(), job.ID)).Counts; c.OK != 2 || c.Leased != 1 {
		t.Errorf("counts %+v", c)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func linesOf(payloads ...string) func() (core.JobItem, error) {
	i := 0
	return func() (core.JobItem, error) {
		if i == len(payloads) {
			return core.JobItem{}, io.EOF
		}
		i++
		return core.JobItem{ID: fmt.Sprint(i), Payload: []byte(payloads[i-1])}, nil
	}
}

// TestBlobDamage damages an object in the store and its bytes on the way up.
func TestBlobDamage(t *testing.T) {
	wires(t, func(t *testing.T, p Protocol) {
		w := newWorkHarness(t, p, memstore.New(memstore.Options{}))
		id := core.NewWorkerID()
		c, err := w.conn(id)
		if err != nil {
			t.Fatal(err)
		}
		b := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
		content, err := c.Upload(ctxFor(t), b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := c.Download(ctxFor(t), content, 1<<21); err != nil || !bytes.Equal(got, b) {
			t.Fatalf("%d bytes came back, %v", len(got), err)
		}
		damageObject(t, filepath.Join(w.dir, "objects"), content)
		if _, err := c.Download(ctxFor(t), content, 1<<21); !core.IsCode(err, core.CodeCorrupt) {
			t.Errorf("a damaged object: %v", err)
		}
		// The name of other bytes, a length of other bytes, a size beyond the limit.
		for name, m := range map[string]*transportv1.UploadRequest{
			"other bytes":      {Content: content[:], Size: 3, Chunk: []byte("abc")},
			"short name":       {Content: content[:7], Size: 3, Chunk: []byte("abc")},
			"beyond the limit": {Size: core.MaxCallPayload + 1, Chunk: []byte("abc")},
			"wrong length":     {Size: 9, Chunk: []byte("abc")},
		} {
			cs, err := transportv1.NewBlobClient(w.certConn(RoleWorker, id.String())).Upload(ctxFor(t))
			if err != nil {
				t.Fatal(err)
			}
			m.WorkerId = id.String()
			if err := cs.Send(m); err != nil {
				t.Fatal(err)
			}
			_, err = cs.CloseAndRecv()
			err = grpcerr.FromStatus("test", err)
			if got := core.CodeOf(err); err == nil || got != core.CodeCorrupt && got != core.CodeInvalidArgument && got != core.CodeTooLarge {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := c.Download(ctxFor(t), core.SumContent([]byte("abc")), 10); !core.IsCode(err, core.CodeNotFound) {
			t.Errorf("something of the refused uploads was kept: %v", err)
		}
	})
}

// damageObject flips a bit in the middle of a stored object.
func damageObject(t *testing.T, root string, id core.ContentID) {
	t.Helper()
	found := 0
	err := filepath.WalkDir(root, func(name string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.Contains(filepath.Base(name), id.String()[8:]) || strings.Contains(name, "meta") {
			return err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		found++
		b[len(b)/2] ^= 4
		return os.WriteFile(name, b, 0o600)
	})
	if err != nil || found != 1 {
		t.Fatalf("%d objects were found, %v", found, err)
	}
}
