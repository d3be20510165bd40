package transport

import (
	"bytes"
	"context"
	"io"

	"google.golang.org/grpc"

	"github.com/rollout-substrate/rollout/pkg/core"
	transportv1 "github.com/rollout-substrate/rollout/proto/rollout/transport/v1"
)

// blobChunk is the size of one message of an object.
const blobChunk = 256 << 10

// blobService puts a [core.ObjectStore] on the wire, as far as workers need it.
type blobService struct {
	transportv1.UnimplementedBlobServer
	objects core.ObjectStore
}

// Upload stores an object.
func (b *blobService) Upload(ss grpc.ClientStreamingServer[transportv1.UploadRequest, transportv1.UploadResponse]) error {
	const op = "upload"
	first, err := ss.Recv()
	if err != nil {
		return err
	}
	id, err := contentFrom(first.GetContent())
	if err != nil {
		return err
	}
	if first.GetSize() > core.MaxCallPayload {
		return core.Errorf(op, core.CodeTooLarge, "an object of %d bytes is announced, at most %d are taken", first.GetSize(), core.MaxCallPayload)
	}
	opts := core.PutOptions{ContentType: "application/octet-stream", Size: first.GetSize()}
	if !id.IsZero() {
		opts.Expect = &id
	}
	r := &uploadReader{ss: ss, rest: first.GetChunk(), size: first.GetSize()}
	info, err := b.objects.Put(ss.Context(), r, opts)
	if err != nil {
		return err
	}
	return ss.SendAndClose(&transportv1.UploadResponse{Content: info.ID[:], Size: info.Size})
}

// uploadReader reads an object from its messages.
type uploadReader struct {
	ss    grpc.ClientStreamingServer[transportv1.UploadRequest, transportv1.UploadResponse]
	rest  []byte
	total int64
	size  int64 // announced; 0: not
}

// Read implements [io.Reader].
func (r *uploadReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		m, err := r.ss.Recv()
		if isEOF(err) && r.size > 0 && r.total != r.size {
			return 0, core.Errorf("upload", core.CodeInvalidArgument, "%d bytes were announced and %d came", r.size, r.total)
		}
		if err != nil {
			return 0, err // io.EOF when the worker has sent everything
		}
		r.rest = m.GetChunk()
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	if r.total += int64(n); r.total > core.MaxCallPayload {
		return n, core.Errorf("upload", core.CodeTooLarge, "the object has more than %d bytes", core.MaxCallPayload)
	}
	return n, nil
}

// Download streams an object.
func (b *blobService) Download(m *transportv1.DownloadRequest, ss grpc.ServerStreamingServer[transportv1.DownloadResponse]) error {
	id, err := contentFrom(m.GetContent())
	if err != nil {
		return err
	}
	r, err := b.objects.Get(ss.Context(), id)
	if err != nil {
		return err
	}
	defer r.Close()
	out := &transportv1.DownloadResponse{Size: r.Info().Size}
	buf := make([]byte, blobChunk)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 || out.Size > 0 {
			out.Chunk = buf[:n]
			if serr := ss.Send(out); serr != nil {
				return serr
			}
			out = &transportv1.DownloadResponse{}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Upload stores b in the coordinator's object store, durably, and returns its id.
func (w *WorkerConn) Upload(ctx context.Context, b []byte) (core.ContentID, error) {
	id := core.SumContent(b)
	err := w.call("upload", channelWork, func(cc grpc.ClientConnInterface) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		cs, err := transportv1.NewBlobClient(cc).Upload(ctx)
		if err != nil {
			return err
		}
		m := &transportv1.UploadRequest{WorkerId: w.cfg.Identity.id.String(), Content: id[:], Size: int64(len(b))}
		for rest := b; ; {
			n := min(len(rest), blobChunk)
			m.Chunk, rest = rest[:n], rest[n:]
			if err := cs.Send(m); err != nil && !isEOF(err) {
				return err
			} else if err != nil || len(rest) == 0 {
				break // the coordinator has answered already, or has everything
			}
			m = &transportv1.UploadRequest{WorkerId: m.WorkerId}
		}
		_, err = cs.CloseAndRecv()
		return err
	})
	return id, err
}

// Download fetches an object from the coordinator's object store and verifies it.
// One of more than limit bytes is [core.CodeTooLarge].
func (w *WorkerConn) Download(ctx context.Context, id core.ContentID, limit int64) ([]byte, error) {
	const op = "download"
	var buf bytes.Buffer
	err := w.call(op, channelWork, func(cc grpc.ClientConnInterface) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		cs, err := transportv1.NewBlobClient(cc).Download(ctx, &transportv1.DownloadRequest{WorkerId: w.cfg.Identity.id.String(), Content: id[:]})
		if err != nil {
			return err
		}
		for {
			m, err := cs.Recv()
			if isEOF(err) {
				return nil
			}
			if err != nil {
				return err
			}
			if m.GetSize() > limit || int64(buf.Len()+len(m.GetChunk())) > limit {
				return core.Errorf("", core.CodeTooLarge, "object %s has more than %d bytes", id, limit)
			}
			buf.Write(m.GetChunk())
		}
	})
	if err != nil {
		return nil, err
	}
	if got := core.SumContent(buf.Bytes()); got != id {
		return nil, core.Errorf(op, core.CodeCorrupt, "asked for object %s, got the bytes of %s", id, got)
	}
	return buf.Bytes(), nil
}
