package jobs

import (
	"context"
	"strconv"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// finished says where earlier results lie, by input hash. It is built once for
// each submission that resumes and takes about 64 bytes for each earlier result.
type finished map[[16]byte]place

type place struct {
	job   core.JobID
	index int64
}

// finishedBefore finds the results of every earlier job of the same plugin,
// digest and method. A job without a digest has nothing to compare and computes
// everything.
func (b *Book) finishedBefore(ctx context.Context, spec core.JobSpec) (finished, error) {
	if !spec.Resume {
		return nil, nil
	}
	digest := spec.Digest
	if digest == "" {
		digest = b.digestOf(spec.Plugin)
	}
	if digest == "" {
		return nil, nil
	}
	known := finished{}
	for e, err := range b.cfg.Storage.Iterate(ctx, core.NewKey(core.NamespaceJobs), core.ScanOptions{}) {
		if err != nil {
			return nil, err
		}
		id, err := jobOfKey(e.Key)
		if err != nil {
			return nil, err
		}
		row, err := decodeJob(e)
		if err != nil {
			return nil, err
		}
		if row.Spec.Plugin != spec.Plugin || row.Spec.Method != spec.Method || row.Spec.Digest != digest {
			continue
		}
		if err := b.addFinished(ctx, known, id); err != nil {
			return nil, err
		}
	}
	return known, nil
}

func (b *Book) addFinished(ctx context.Context, known finished, id core.JobID) error {
	for e, err := range b.cfg.Storage.Iterate(ctx, resultPrefix(id), core.ScanOptions{}) {
		if err != nil {
			return err
		}
		index, err := indexOf(e.Key)
		if err != nil {
			return err
		}
		r, err := decodeResult(e.Key, e.Value)
		if err != nil {
			return err
		}
		if r.Outcome == outcomeOK && len(r.Input) == 16 {
			known[[16]byte(r.Input)] = place{id, index}
		}
	}
	return nil
}

// lookUp returns the earlier result of an input. One whose row or large content is
// gone meanwhile is computed again.
func (b *Book) lookUp(ctx context.Context, known finished, hash []byte) (resultRow, bool, error) {
	at, ok := known[[16]byte(hash)]
	if !ok {
		return resultRow{}, false, nil
	}
	key := resultKey(at.job, at.index)
	es, err := b.cfg.Storage.GetMany(ctx, key)
	if err != nil || !es[0].Exists() {
		return resultRow{}, false, err
	}
	row, err := decodeResult(key, es[0].Value)
	if err != nil || row.Outcome != outcomeOK {
		return resultRow{}, false, err
	}
	if len(row.Content) == core.ContentIDSize {
		there, err := b.cfg.Objects.Exists(ctx, core.ContentID(row.Content))
		if err != nil || !there {
			return resultRow{}, false, err
		}
	}
	return row, true, nil
}

// digestOf returns the digest of a plugin that some attached worker has loaded,
// the smallest where they differ, so that the choice does not depend on chance.
func (b *Book) digestOf(plugin string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	best := ""
	for _, s := range b.sessions {
		if d := s.plugins[plugin]; d != "" && (best == "" || d < best) {
			best = d
		}
	}
	return best
}

func plural(n int64, what string) string {
	text := strconv.FormatInt(n, 10) + " " + what
	if n != 1 {
		text += "s"
	}
	return text
}
