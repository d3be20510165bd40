package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// localFailure keeps a failure of a file on this machine from counting as a
// coordinator that did not answer, which has an exit status of its own.
func localFailure(err error) error {
	if core.IsCode(err, core.CodeUnavailable) {
		return core.Errorf("", core.CodeUnknown, "%w", err)
	}
	return err
}

// openClosed opens the store in a file that no process holds, reads it with f and
// closes it.
func openClosed(ctx context.Context, path string, f func(*storage.Store) error) (err error) {
	s, err := storage.Open(ctx, storage.Config{Path: path, ReadOnly: true})
	if err != nil {
		return localFailure(err)
	}
	defer func() { err = errors.Join(localFailure(err), s.Close()) }()
	return f(s)
}

// checked is what `store check --json` prints, for a sound store and a damaged one.
type checked struct {
	OK    bool            `json:"ok"`
	Error *checkedError   `json:"error,omitempty"`
	Store *storage.Report `json:"store,omitempty"`
}

type checkedError struct {
	Code    core.Code `json:"code"`
	Message string    `json:"message"`
}

func storeCheckCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "check PATH", Short: "Verify every page and every row of a closed store",
		Long: "check reads the whole file and changes nothing. Pages, row checksums, and the count and\n" +
			"sum that each namespace keeps of its rows must agree. A damaged store is exit status 1.",
		Args: args(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, a []string) error {
			var r storage.Report
			err := openClosed(cmd.Context(), a[0], func(s *storage.Store) (err error) {
				r, err = s.Check(cmd.Context())
				return err
			})
			switch {
			case !t.json && err == nil:
				return table(t.stdout, reportRows(&r))
			case !t.json:
				return err
			case err == nil:
				return t.printJSON(checked{OK: true, Store: &r})
			}
			return errors.Join(err, t.printJSON(checked{Error: &checkedError{core.CodeOf(err), oneLine(err)}}))
		},
	}
}

func reportRows(r *storage.Report) [][]string {
	rows := [][]string{
		{"store", r.Path},
		{"state", "sound"},
		{"format", fmt.Sprint(r.Format)},
		{"revision", fmt.Sprint(r.Revision)},
		{"size", fmt.Sprintf("%s, %d pages, %d of them free", size(r.FileBytes), r.Pages, r.FreePages)},
		{"rows", fmt.Sprint(r.Rows)},
	}
	for _, n := range r.Namespaces {
		rows = append(rows, []string{"  " + string(n.Namespace), fmt.Sprintf("%s, %s", count(int(n.Rows), "row"), size(int64(n.Bytes)))})
	}
	return rows
}

func storeRestoreCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "restore BACKUP PATH", Short: "Make a store from a copy; never replaces a file",
		Long: "restore verifies BACKUP completely and makes a new store at PATH, which must not exist.\n" +
			"The new store's epoch is raised, so that workers refuse whatever a coordinator on the\n" +
			"lost store may still say.",
		Args: args(cobra.ExactArgs(2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			epoch, err := storage.Restore(cmd.Context(), a[0], a[1])
			if err != nil {
				return localFailure(err)
			}
			return t.said(map[string]any{"file": a[1], "epoch": epoch}, "made %s from %s, epoch %d", a[1], a[0], epoch)
		},
	}
}

func storeCompactCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "compact PATH [OUT]", Short: "Write a closed store without its free pages",
		Long: "compact makes a verified copy without free pages and puts it in the place of PATH, or\n" +
			"writes it to OUT, which must not exist. It needs room for a second file meanwhile.",
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			out := a[len(a)-1]
			c, err := storage.Compact(cmd.Context(), a[0], out)
			if err != nil {
				return localFailure(err)
			}
			return t.said(map[string]any{"file": out, "before": c.Before, "after": c.After},
				"wrote %s, %s instead of %s", out, size(c.After), size(c.Before))
		},
	}
}
