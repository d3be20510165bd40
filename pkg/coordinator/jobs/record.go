package jobs

import (
	"context"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// changes are results that appear or go: their rows, and what they say.
type changes struct {
	writes []core.Write
	rows   []resultRow
}

func (c *changes) put(key core.Key, row resultRow) error {
	value, err := encodeResult(row)
	if err != nil {
		return err
	}
	c.writes, c.rows = append(c.writes, core.Write{Key: key, Value: value}), append(c.rows, row)
	return nil
}

func (c *changes) remove(key core.Key, row resultRow) {
	c.writes, c.rows = append(c.writes, core.Write{Key: key, Delete: true}), append(c.rows, row)
}

// recordResults makes results durable, or their going, with events, and then counts
// each n times: 1 for those that appear, -1 for those that go.
func (b *Book) recordResults(ctx context.Context, j *job, c changes, n int64, events ...core.Event) error {
	if len(c.writes) == 0 {
		return nil
	}
	if err := b.cfg.Record(ctx, c.writes, events...); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range c.rows {
		j.count(r, n)
	}
	j.tell()
	return nil
}

// unanswered makes dead results for those items of a page that have none. verdict
// fills in what the item died of.
func (b *Book) unanswered(ctx context.Context, j *job, page []core.QueueEntry, verdict func(e core.QueueEntry, row *resultRow, index int64)) (changes, error) {
	var found changes
	for _, e := range page {
		env, err := decodeEnvelope(e.Payload)
		if err != nil {
			return changes{}, err
		}
		key := resultKey(j.id, env.Index)
		es, err := b.cfg.Storage.GetMany(ctx, key)
		if err != nil {
			return changes{}, err
		}
		if es[0].Exists() {
			continue
		}
		row := resultRow{Outcome: outcomeDead, ID: env.ID, Input: env.Input, Attempts: e.Attempts}
		verdict(e, &row, env.Index)
		if err := found.put(key, row); err != nil {
			return changes{}, err
		}
	}
	return found, nil
}
