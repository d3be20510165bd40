package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// objectTool is the tool with the flag that all object commands have.
type objectTool struct {
	*tool
	root string
}

// objectCmd is the noun of the object store on this machine. No coordinator is
// asked, and processes that use the store need not stop.
func objectCmd(t *tool) *cobra.Command {
	o := &objectTool{tool: t}
	c := group(cobra.Command{Use: "object", Short: "Put, read and look after objects on this machine"},
		o.putCmd(), o.getCmd(), o.statCmd(), o.listCmd(), o.verifyCmd(), o.gcCmd())
	c.PersistentFlags().StringVar(&o.root, "root", "", "`directory` of the object store (default object_store.root)")
	return c
}

// localObjectFailure keeps a failure of this machine's disk from counting as a
// coordinator that refused.
func localObjectFailure(err error) error {
	if core.IsCode(err, core.CodePermissionDenied) {
		return core.Errorf("", core.CodeUnknown, "%w", err)
	}
	return localFailure(err)
}

// with calls f with the object store. Only a put makes one that is not there.
func (o *objectTool) with(ctx context.Context, create bool, f func(*cloudlocal.Objects) error) error {
	l, err := o.load(config.Coordinator)
	if err != nil {
		return err
	}
	root := l.Config.ObjectRoot
	if o.root != "" {
		root = o.root
	}
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) && !create {
		return core.Errorf("", core.CodeNotFound, "there is no object store at %s, name it with --root or --data-dir", root)
	}
	s, err := cloudlocal.OpenObjects(ctx, cloudlocal.ObjectsConfig{Root: root, Logger: o.logger(l.Config)})
	if err != nil {
		return localObjectFailure(err)
	}
	return errors.Join(localObjectFailure(f(s)), s.Close())
}

func parseIDs(texts []string) ([]core.ContentID, error) {
	ids := make([]core.ContentID, len(texts))
	for i, s := range texts {
		id, err := core.ParseContentID(s)
		if err != nil {
			return nil, usageError{err: err}
		}
		ids[i] = id
	}
	return ids, nil
}

func (o *objectTool) putCmd() *cobra.Command {
	var contentType string
	c := &cobra.Command{
		Use: "put FILE|-", Short: "Store a file, or what comes on stdin, and print its id",
		Long: "put prints the id, which is the BLAKE3 hash of the bytes, once they survive power loss.\nEqual bytes are stored once.",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) (err error) {
			in, opts := o.stdin, core.PutOptions{ContentType: contentType}
			if a[0] != "-" {
				f, err := os.Open(a[0])
				if err != nil {
					return localObjectFailure(core.Wrap("", core.CodeUnknown, err))
				}
				defer f.Close() // it was only read
				if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
					opts.Size = info.Size()
				}
				in = f
			}
			return o.with(cmd.Context(), true, func(s *cloudlocal.Objects) error {
				info, err := s.Put(cmd.Context(), in, opts)
				if err != nil {
					return err
				}
				return o.said(info, "%s", info.ID)
			})
		},
	}
	c.Flags().StringVar(&contentType, "content-type", "", "kept with the object")
	return c
}

func (o *objectTool) getCmd() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use: "get ID", Short: "Write an object to stdout or a file",
		Long: "get verifies what it writes. Of a damaged object nothing is written: with -o no file is\n" +
			"left, and for stdout the object is read once more beforehand. Nothing is moved.",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			ids, err := parseIDs(a)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), false, func(s *cloudlocal.Objects) error {
				if out != "" && out != "-" {
					return getFile(cmd.Context(), s, ids[0], out)
				}
				if err := copyObject(cmd.Context(), s, ids[0], io.Discard); err != nil {
					return err
				}
				return copyObject(cmd.Context(), s, ids[0], o.stdout)
			})
		},
	}
	c.Flags().StringVarP(&out, "output", "o", "", "write `FILE`, which appears when it is complete")
	return c
}

func copyObject(ctx context.Context, s *cloudlocal.Objects, id core.ContentID, w io.Writer) error {
	r, err := s.Get(ctx, id)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, r.Close())
}

// getFile writes an object beside its destination and renames it when it is whole.
func getFile(ctx context.Context, s *cloudlocal.Objects, id core.ContentID, out string) error {
	f, err := os.CreateTemp(filepath.Dir(out), "."+filepath.Base(out)+".*")
	if err != nil {
		return err
	}
	err = copyObject(ctx, s, id, f)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), out)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

func (o *objectTool) statCmd() *cobra.Command {
	return &cobra.Command{
		Use: "stat ID", Short: "Show an object's size, content type and age",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			ids, err := parseIDs(a)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), false, func(s *cloudlocal.Objects) error {
				info, err := s.Stat(cmd.Context(), ids[0])
				if err != nil {
					return err
				}
				if o.json {
					return o.printJSON(info)
				}
				return table(o.stdout, [][]string{
					{"id", info.ID.String()},
					{"size", fmt.Sprintf("%s (%d bytes)", size(info.Size), info.Size)},
					{"content type", info.ContentType},
					{"created", info.CreatedAt.Format(time.RFC3339Nano)},
				})
			})
		},
	}
}

func (o *objectTool) listCmd() *cobra.Command {
	var after string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List the objects in the order of their ids",
		Long: "list prints one line for each object, with --json one object of JSON. Where a limit cut it\noff, --after with the last id goes on.",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var from core.ContentID
			if after != "" {
				ids, err := parseIDs([]string{after})
				if err != nil {
					return err
				}
				from = ids[0]
			}
			if limit < 0 {
				return usagef("--limit %d is negative", limit)
			}
			return o.with(cmd.Context(), false, func(s *cloudlocal.Objects) error { return o.list(cmd.Context(), s, from, limit) })
		},
	}
	c.Flags().StringVar(&after, "after", "", "begin behind this `ID`")
	c.Flags().IntVar(&limit, "limit", 0, "print at most so many (0: all)")
	return c
}

func (o *objectTool) list(ctx context.Context, s *cloudlocal.Objects, after core.ContentID, limit int) (err error) {
	w := bufio.NewWriterSize(o.stdout, 64<<10)
	defer func() { err = errors.Join(err, w.Flush()) }()
	n, damage := 0, 0
	for info, err := range s.List(ctx, after) {
		switch {
		case core.IsCode(err, core.CodeCorrupt):
			damage++
			fmt.Fprintf(o.stderr, "rollout: %s\n", oneLine(err))
		case err != nil:
			return err
		case o.json:
			if _, err := fmt.Fprintf(w, "%s\n", marshal(info)); err != nil {
				return err
			}
		default:
			if _, err := fmt.Fprintf(w, "%s %12d  %s  %s\n", info.ID, info.Size, info.CreatedAt.Format(time.RFC3339), cell(info.ContentType)); err != nil {
				return err
			}
		}
		if n++; limit > 0 && n == limit {
			break
		}
	}
	if damage > 0 {
		return core.Errorf("", core.CodeCorrupt, "%s damaged, see object verify", plural(damage, "object is", "objects are"))
	}
	return nil
}

func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// damagedObject is one finding of `object verify --json`.
type damagedObject struct {
	ID          core.ContentID `json:"id"`
	Code        core.Code      `json:"code"`
	Message     string         `json:"message"`
	Quarantined bool           `json:"quarantined"`
}

func (o *objectTool) verifyCmd() *cobra.Command {
	var quarantine bool
	c := &cobra.Command{
		Use: "verify [ID...]", Short: "Read objects and compare them with their ids",
		Long: "verify reads the named objects, or all, and prints the ids of those that are damaged or\n" +
			"missing, the reasons on stderr. If there is any the exit status is 1. With --quarantine\n" +
			"damaged ones are moved to the directory quarantine of the store, so that a new put of the\n" +
			"same bytes is stored again.",
		RunE: func(cmd *cobra.Command, a []string) error {
			ids, err := parseIDs(a)
			if err != nil {
				return err
			}
			return o.with(cmd.Context(), false, func(s *cloudlocal.Objects) error {
				found, err := s.Verify(cmd.Context(), ids, quarantine)
				return errors.Join(o.printFindings(found, err == nil), err)
			})
		},
	}
	c.Flags().BoolVar(&quarantine, "quarantine", false, "move damaged objects out of reach")
	return c
}

func (o *objectTool) printFindings(found []core.VerifyResult, complete bool) error {
	damaged := make([]damagedObject, len(found))
	for i, r := range found {
		damaged[i] = damagedObject{r.ID, core.CodeOf(r.Err), oneLine(r.Err), r.Quarantined}
		fmt.Fprintf(o.stderr, "rollout: %s\n", damaged[i].Message)
		if !o.json {
			if _, err := fmt.Fprintln(o.stdout, r.ID); err != nil {
				return err
			}
		}
	}
	if o.json {
		if err := o.printJSON(map[string]any{"ok": complete && len(found) == 0, "damaged": damaged}); err != nil {
			return err
		}
	}
	if len(found) > 0 {
		return core.Errorf("", core.CodeCorrupt, "%s damaged or missing", plural(len(found), "object is", "objects are"))
	}
	return nil
}
