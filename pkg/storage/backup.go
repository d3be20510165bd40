package storage

import (
	"context"
	"errors"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Backup implements [core.Backuper]. The copy is made beside the file first, so
// that a slow w holds up nobody; that takes as much room on the disk as the file
// has, and commits that make the file longer wait for the copy, about a second
// for a gigabyte. The copy has no name and its room is free again when Backup
// returns.
func (s *Store) Backup(ctx context.Context, w io.Writer) (n int64, err error) {
	f, err := createTemp(s.cfg.Path)
	if err != nil {
		return 0, core.WithOp(opBackup, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := discard(f.Name(), nil); err != nil {
		return 0, core.WithOp(opBackup, err)
	}
	if err := s.copyTo(ctx, f); err != nil {
		return 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return 0, fileError(opBackup, err)
	}
	n, err = io.Copy(ctxWriter{ctx, w}, f)
	return n, fileError(opBackup, err)
}

// copyTo writes one committed state to an empty file, which is fast.
func (s *Store) copyTo(ctx context.Context, f *os.File) error {
	return s.view(ctx, opBackup, func(tx *bolt.Tx) error {
		_, err := tx.WriteTo(ctxWriter{ctx, f})
		if err == nil && tx.ID()%2 == 1 {
			err = swapMetas(f, int64(tx.DB().Info().PageSize))
		}
		return fileError(opBackup, err)
	})
}

// swapMetas exchanges the records of the two meta pages of a copy. bbolt writes the
// newer one to page 0 of every copy; its own commits, and the check at open, put a
// transaction of odd number on page 1.
func swapMetas(f *os.File, pageSize int64) error {
	var metas [2][metaLen]byte
	for i := range metas {
		if _, err := f.ReadAt(metas[i][:], int64(i)*pageSize+pageHeaderLen); err != nil {
			return err
		}
	}
	for i := range metas {
		if _, err := f.WriteAt(metas[1-i][:], int64(i)*pageSize+pageHeaderLen); err != nil {
			return err
		}
	}
	return nil
}

// fileError gives an error of reading or writing a file its code.
func fileError(op string, err error) error {
	if err != nil && isFull(err) {
		return core.Wrap(op, core.CodeExhausted, err)
	}
	return core.Wrap(op, core.CodeUnavailable, err)
}

// ctxWriter stops writing when its context ends.
type ctxWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c ctxWriter) Write(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(p)
}
