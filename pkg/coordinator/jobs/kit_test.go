package jobs

import (
	"context"
	"errors"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/core/coretest"
)

// benchLink reaches the book of a bench, which a restart replaces.
type benchLink struct{ b *bench }

func (l benchLink) Attach(ctx context.Context, w core.WorkerRef, plugins []core.LoadedPlugin, holding []core.Lease) (core.WorkSession, error) {
	return l.b.book.Attach(ctx, w, plugins, holding)
}

func (l benchLink) Upload(ctx context.Context, b []byte) (core.ContentID, error) {
	if len(b) > core.MaxCallPayload {
		return core.ContentID{}, core.Errorf("upload", core.CodeTooLarge, "%d bytes", len(b))
	}
	info, err := core.PutBlob(ctx, l.b.objs, b, "")
	return info.ID, err
}

func (l benchLink) Download(ctx context.Context, id core.ContentID, limit int64) ([]byte, error) {
	return core.ReadBlob(ctx, l.b.objs, id, limit)
}

// TestKit runs the kit on the book itself; transport runs it over the wire.
func TestKit(t *testing.T) {
	coretest.RunWork(t, func(t *testing.T) *coretest.WorkFixture {
		b := newBench(t)
		f := &coretest.WorkFixture{Jobs: b.book}
		f.Work = func(core.WorkerID) (coretest.WorkLink, error) { return benchLink{b}, nil }
		f.Break = func(s core.WorkSession) error { return s.Close() }
		f.Release = func(w core.WorkerRef, loss bool) error {
			_, err := b.book.ReleaseWorker(context.Background(), w, loss, "the check says so")
			return err
		}
		f.Restart = func() error {
			if err := errors.Join(b.book.Close(), b.queue.Close()); err != nil {
				return err
			}
			b.open()
			f.Jobs = b.book
			return nil
		}
		return f
	})
}
