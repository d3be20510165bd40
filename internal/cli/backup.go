package cli

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

func storeBackupCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "backup [PATH] OUT", Short: "Copy a store: a closed file, or that of a running coordinator",
		Long: "backup PATH OUT copies the store in a file that no process holds. backup OUT copies the\n" +
			"store of the coordinator at --addr while it runs. The copy is consistent and opens as\n" +
			"a store of its own; OUT must not exist.",
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			out := a[len(a)-1]
			if len(a) == 2 {
				if t.addr != "" {
					return usagef("give a file or --addr, not both")
				}
				return t.backup(cmd.Context(), out, func(ctx context.Context, w io.Writer) (int64, error) {
					n, err := backupFile(ctx, a[0], w)
					return n, localFailure(err)
				})
			}
			return t.admin(cmd.Context(), func(ctx context.Context, a core.Admin) error {
				return t.backup(ctx, out, a.Backup)
			})
		},
	}
}

// backup writes a copy to a temporary name, syncs it, and gives it its name when it
// is whole.
func (t *tool) backup(ctx context.Context, out string, write func(context.Context, io.Writer) (int64, error)) (err error) {
	const op = "backup"
	if fileExists(out) {
		return core.Errorf(op, core.CodeAlreadyExists, "%s exists, choose another name or remove it", out)
	}
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".partial-*") // 0600
	if err != nil {
		return core.Wrap(op, core.CodeUnknown, err)
	}
	defer func() {
		if err != nil {
			// What is left of a failed copy is of no use to anybody.
			_ = os.Remove(f.Name())
		}
	}()
	n, err := write(ctx, f)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Link(f.Name(), out) // unlike a rename it never replaces a file
	}
	if err != nil {
		return core.Wrap(op, core.CodeOf(err), err)
	}
	if err := os.Remove(f.Name()); err != nil {
		return core.Wrap(op, core.CodeUnknown, err)
	}
	if err := syncDir(filepath.Dir(out)); err != nil {
		return core.Wrap(op, core.CodeUnknown, err)
	}
	return t.said(map[string]any{"file": out, "bytes": n}, "wrote %s, %s", out, size(n))
}

func backupFile(ctx context.Context, path string, w io.Writer) (int64, error) {
	s, err := storage.Open(ctx, storage.Config{Path: path, ReadOnly: true})
	if err != nil {
		return 0, err
	}
	n, err := s.Backup(ctx, w)
	if cerr := s.Close(); err == nil {
		err = cerr
	}
	return n, err
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
