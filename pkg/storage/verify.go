package storage

import (
	"context"
	"errors"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage/internal/keycode"
)

// maxProblems bounds how many damaged places one error names.
const maxProblems = 16

// ctxEvery is how many rows are read between two looks at the context.
const ctxEvery = 1024

// Report is what a full check found in a sound store.
type Report struct {
	Path       string            `json:"path"`
	Format     int               `json:"format"`
	Revision   uint64            `json:"revision"`
	FileBytes  int64             `json:"file_bytes"`
	Pages      uint64            `json:"pages"`      // in the file, free ones included, when it was opened
	FreePages  uint64            `json:"free_pages"` // when it was opened
	Rows       uint64            `json:"rows"`
	Namespaces []NamespaceReport `json:"namespaces"` // in order
}

// NamespaceReport is the part of a [Report] about one namespace.
type NamespaceReport struct {
	Namespace core.Namespace `json:"namespace"`
	Groups    int            `json:"groups"` // runs with rows, and one more for rows without a run
	Rows      uint64         `json:"rows"`
	Bytes     uint64         `json:"bytes"` // of keys and values as stored
}

// Check reads every row of one committed state and compares its checksum, and
// each namespace's rows with their count and sum. With ReadOnly it walks the raw
// pages too, which otherwise happened at [Open]. Damage is [core.CodeCorrupt]
// naming up to 16 places.
func (s *Store) Check(ctx context.Context) (Report, error) {
	var r Report
	if s.cfg.ReadOnly {
		if _, _, err := inspect(s.file, s.cfg); err != nil {
			return r, core.WithOp(opCheck, err)
		}
	}
	err := s.view(ctx, opCheck, func(tx *bolt.Tx) (err error) {
		_, r, err = s.verify(ctx, opCheck, tx)
		return err
	})
	if err != nil {
		return r, err
	}
	r.FileBytes, err = s.Size()
	return r, err
}

// verifier walks all rows of one state.
type verifier struct {
	s        *Store
	ctx      context.Context
	op       string
	groups   map[string]groupStat // as found
	problems []error
	head     head
}

// verify checks all rows against their checksums and sums, and returns the sums.
func (s *Store) verify(ctx context.Context, op string, tx *bolt.Tx) (map[string]groupStat, Report, error) {
	v := &verifier{s: s, ctx: ctx, op: op, groups: map[string]groupStat{}}
	r := Report{Path: s.cfg.Path, Format: FormatVersion, Pages: s.pages.Pages, FreePages: s.pages.Free}
	own := tx.Bucket(bucketOwn)
	if own == nil {
		return nil, r, core.Errorf(op, core.CodeCorrupt, "%s is a bbolt file without the mark of a store: check the path, or %s", s.cfg.Path, adviceDamaged)
	}
	if err := checkFormat(op, s.cfg.Path, own.Get(keyFormat)); err != nil {
		return nil, r, err
	}
	var err error
	if v.head, err = storedHead(op, tx); err != nil {
		return nil, r, damagedFile(s.cfg.Path, err)
	}
	r.Revision = v.head.revision
	err = tx.ForEach(func(name []byte, b *bolt.Bucket) error {
		if string(name) == string(bucketOwn) {
			return nil
		}
		n, err := v.namespace(core.Namespace(name), b)
		r.Rows += n.Rows
		r.Namespaces = append(r.Namespaces, n)
		return err
	})
	if err != nil {
		return nil, r, err
	}
	v.compare(own)
	if len(v.problems) > 0 && !s.hook.noChecksum {
		return nil, r, damagedFile(s.cfg.Path, core.Errorf(op, core.CodeCorrupt, "%w", errors.Join(v.problems...)))
	}
	return v.groups, r, nil
}

func (v *verifier) problem(format string, args ...any) {
	if len(v.problems) < maxProblems {
		v.problems = append(v.problems, core.Errorf(v.op, core.CodeCorrupt, format, args...))
	}
}

// namespace walks one bucket. Its error is about ctx only.
func (v *verifier) namespace(ns core.Namespace, b *bolt.Bucket) (NamespaceReport, error) {
	n := NamespaceReport{Namespace: ns}
	if b == nil || ns.Validate() != nil {
		v.problem("%q is no namespace", ns)
		return n, nil
	}
	seed := envelopeSeed(ns)
	var group []byte
	var stat groupStat
	flush := func() {
		if stat.rows > 0 {
			v.groups[string(groupKey(ns, group))] = stat
			n.Groups++
			n.Rows += stat.rows
		}
	}
	seen := 0
	c := b.Cursor()
	for k, stored := c.First(); k != nil; k, stored = c.Next() {
		if seen++; seen%ctxEvery == 0 && v.ctx.Err() != nil {
			return n, core.Wrap(v.op, core.CodeCanceled, v.ctx.Err())
		}
		r, ok := openEnvelope(stored, seed, k)
		g := keycode.Group(k)
		switch {
		case !ok || g == nil:
			v.problem("%w", errDamagedRow(v.op, ns, k))
			continue
		case r.rev > v.head.revision:
			v.problem("row %x in namespace %q has revision %d, beyond the last one, %d", k, ns, r.rev, v.head.revision)
		}
		if string(g) != string(group) {
			flush()
			group, stat = append(group[:0:0], g...), groupStat{}
		}
		stat.add(r.crc)
		n.Bytes += uint64(len(k) + len(stored))
	}
	flush()
	return n, nil
}

// compare holds the sums that were found against the stored ones.
func (v *verifier) compare(own *bolt.Bucket) {
	stored := 0
	c := own.Cursor()
	for k, sealed := c.First(); k != nil; k, sealed = c.Next() {
		if string(k) == string(keyFormat) || string(k) == string(keyHead) {
			continue
		}
		ns, _, ok := splitGroupKey(k)
		want, sound := decodeGroup(k, sealed)
		if !ok || !sound {
			v.problem("the row count %x is damaged", k)
			continue
		}
		stored++
		if got := v.groups[string(k)]; got != want {
			v.problem("namespace %q should hold %d rows with sum %016x and holds %d with sum %016x: rows are missing, old, or not its own", ns, want.rows, want.sum, got.rows, got.sum)
		}
	}
	if uint64(stored) != v.head.groups || stored != len(v.groups) {
		v.problem("there should be %d row counts; %d are stored and rows are found for %d", v.head.groups, stored, len(v.groups))
	}
}
