package cli

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

const objectGCHelp = `gc removes the objects that nothing refers to. What is referred to is

  every id that stands in a row of a store: those of --store, or without it the
  coordinator's and the worker's own, as far as they are there. The rows are searched
  for the id itself, as bytes and as text, so whatever a program has noted there counts.
  A store must be closed; of one that is open give a copy ('rollout store backup').

  every id of --keep, a file with one id a line ('-' is stdin).

Objects that were put within --grace stay in any case: whoever has just put them may
not have noted it yet.`

// gcFlags say what `object gc` keeps.
type gcFlags struct {
	stores []string
	keep   string
	grace  time.Duration
	dry    bool
}

func (o *objectTool) gcCmd() *cobra.Command {
	var f gcFlags
	c := &cobra.Command{
		Use: "gc", Short: "Remove the objects that nothing refers to", Long: objectGCHelp,
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.grace < 0 {
				return usagef("--grace %v is negative", f.grace)
			}
			return o.with(cmd.Context(), false, func(s *cloudlocal.Objects) error { return o.gc(cmd.Context(), s, f) })
		},
	}
	c.Flags().StringArrayVar(&f.stores, "store", nil, "a store `file` whose rows refer to objects; may be repeated")
	c.Flags().StringVar(&f.keep, "keep", "", "`FILE` with ids to keep, one a line, or -")
	c.Flags().DurationVar(&f.grace, "grace", 24*time.Hour, "keep what was put so recently")
	c.Flags().BoolVar(&f.dry, "dry-run", false, "only say what would be removed")
	return c
}

func (o *objectTool) gc(ctx context.Context, s *cloudlocal.Objects, f gcFlags) error {
	stores, err := o.gcStores(f)
	if err != nil {
		return err
	}
	m, err := newMarker(ctx, s)
	if err != nil {
		return err
	}
	if f.keep != "" {
		if err := o.keepListed(m, f.keep); err != nil {
			return err
		}
	}
	for _, path := range stores {
		if err := m.markStore(ctx, path); err != nil {
			return err
		}
	}
	var dry core.GCResult
	r, err := s.GC(ctx, func(id core.ContentID) (bool, error) {
		if m.live(id) || !f.dry {
			return m.live(id), nil
		}
		info, err := s.Stat(ctx, id)
		dry.Removed++
		dry.Freed += info.Size
		if core.IsCode(err, core.CodeCorrupt) {
			err = nil // its size is not known, but it would go
		}
		return true, err
	}, f.grace)
	if err != nil {
		return err
	}
	verb := "removed"
	if f.dry {
		verb, r = "would remove", core.GCResult{Kept: r.Kept - dry.Removed, Removed: dry.Removed, Freed: dry.Freed}
	}
	return o.said(map[string]any{"kept": r.Kept, "removed": r.Removed, "freed": r.Freed, "dry_run": f.dry},
		"%s %s, %s; kept %d", verb, count(int(r.Removed), "object"), size(r.Freed), r.Kept)
}

// gcStores returns the stores to search. It refuses to collect when nothing says
// what is referred to, because then everything would go.
func (o *objectTool) gcStores(f gcFlags) ([]string, error) {
	if len(f.stores) > 0 {
		return f.stores, nil
	}
	var found []string
	for _, p := range []config.Program{config.Coordinator, config.Worker} {
		l, err := o.load(p)
		if err != nil {
			return nil, err
		}
		switch _, err := os.Stat(l.Config.StoragePath); {
		case err == nil:
			found = append(found, l.Config.StoragePath)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	if len(found) == 0 && f.keep == "" {
		return nil, usagef("nothing says which objects are referred to: name a store with --store, or a list with --keep (an empty one removes everything)")
	}
	return found, nil
}

// keepListed marks the ids of a list.
func (o *objectTool) keepListed(m *marker, name string) (err error) {
	in, shown := o.stdin, "stdin"
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close() // it was only read
		in, shown = f, filepath.Clean(name)
	}
	lines := bufio.NewReader(in)
	for n := 1; ; n++ {
		line, err := lines.ReadString('\n')
		if text := strings.TrimSpace(line); text != "" {
			id, perr := core.ParseContentID(text)
			if perr != nil {
				return usagef("%s:%d: %w", shown, n, perr)
			}
			m.mark(id)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// markStore marks every id that stands in a row of a closed store.
func (m *marker) markStore(ctx context.Context, path string) error {
	return openClosed(ctx, path, func(s *storage.Store) error {
		names, err := s.Namespaces(ctx)
		if err != nil {
			return err
		}
		for _, ns := range names {
			for e, err := range s.Rows(ctx, ns) {
				if err != nil {
					return err
				}
				for _, segment := range e.Key.Path {
					m.search([]byte(segment))
				}
				m.search(e.Value)
			}
		}
		return nil
	})
}
