package cloudlocal

import (
	"context"
	"errors"
	"iter"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// List implements [core.ObjectStore]. A damaged object is yielded with its id and
// [core.CodeCorrupt]; a caller that goes on gets the objects behind it. Any other
// error ends the list.
func (o *Objects) List(ctx context.Context, after core.ContentID) iter.Seq2[core.ObjectInfo, error] {
	const op = "objects: list"
	return func(yield func(core.ObjectInfo, error) bool) {
		err := o.walk(ctx, after, func(id core.ContentID) (bool, error) {
			if err := o.enter(ctx, op); err != nil {
				return false, err
			}
			info, err := o.describe(op, id)
			o.calls.Done() // the caller may close the store from within the loop
			switch {
			case core.IsCode(err, core.CodeNotFound):
				return true, nil
			case core.IsCode(err, core.CodeCorrupt):
				return yield(core.ObjectInfo{ID: id}, err), nil
			case err != nil:
				return false, err
			}
			return yield(info, nil), nil
		})
		if err != nil {
			yield(core.ObjectInfo{}, o.walkError(op, err))
		}
	}
}

// walkError gives an error of a walk its code. The directory is closed under a
// walk that Close did not wait for.
func (o *Objects) walkError(op string, err error) error {
	o.mu.Lock()
	closed := o.closed
	o.mu.Unlock()
	var coded *core.Error
	if closed && !errors.As(err, &coded) {
		return core.Errorf(op, core.CodeClosed, "the object store is closed")
	}
	return fsError(op, err)
}
