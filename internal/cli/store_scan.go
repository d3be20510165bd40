package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/storage"
)

// maxShownValue bounds a value in the output for people, in bytes.
const maxShownValue = 120

// scanRow is one row as `store scan --json` prints it. Nothing in it tells which
// file it came from or when, so that two scans of equal stores are equal.
type scanRow struct {
	Namespace core.Namespace  `json:"namespace"`
	Run       *string         `json:"run_id"` // null: the row belongs to no run
	Path      []any           `json:"path"`   // segments: text, an encoded number as a number, or an object with base64
	Revision  uint64          `json:"revision"`
	Value     json.RawMessage `json:"value"`
}

func newScanRow(e core.Entry) scanRow {
	row := scanRow{Namespace: e.Key.Namespace, Path: make([]any, len(e.Key.Path)), Revision: e.Revision, Value: rowValue(e.Value)}
	for i, segment := range e.Key.Path {
		row.Path[i] = pathSegment(segment)
	}
	if !e.Key.Run.IsZero() {
		run := e.Key.Run.String()
		row.Run = &run
	}
	return row
}

// pathSegment is the JSON form of one segment. Encoded numbers begin with a control
// character, so no text is taken for one.
func pathSegment(s string) any {
	if n, err := storage.ParseUintSegment(s); err == nil {
		return n
	}
	return textOrBytes(s)
}

func storeScanCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "scan PATH [NAMESPACE]", Short: "Print the rows of a closed store, of every run, in key order",
		Long: "scan prints one line for each row; with --json an object with namespace, run_id, path,\n" +
			"revision and value. A value is shown as JSON where it is MessagePack or a JSON\n" +
			"object, as a string where it is text, and as {\"base64\": ...} otherwise. Without\n" +
			"NAMESPACE all of them are printed.",
		Args: args(cobra.RangeArgs(1, 2)),
		RunE: func(cmd *cobra.Command, a []string) error {
			if len(a) == 2 {
				if err := core.Namespace(a[1]).Validate(); err != nil {
					return usageError{err: err}
				}
			}
			return openClosed(cmd.Context(), a[0], func(s *storage.Store) error {
				names := []core.Namespace{core.Namespace(a[len(a)-1])}
				if len(a) == 1 {
					var err error
					if names, err = s.Namespaces(cmd.Context()); err != nil {
						return err
					}
				}
				return t.scan(cmd.Context(), s, names)
			})
		},
	}
}

// scan prints the rows of namespaces. What was read before an error is printed.
func (t *tool) scan(ctx context.Context, s *storage.Store, names []core.Namespace) (err error) {
	out := bufio.NewWriterSize(t.stdout, 64<<10)
	defer func() { err = errors.Join(err, out.Flush()) }()
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	for _, ns := range names {
		for e, err := range s.Rows(ctx, ns) {
			if err != nil {
				return err
			}
			row := newScanRow(e)
			if t.json {
				err = enc.Encode(row)
			} else {
				_, err = fmt.Fprintln(out, row.line())
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// line is the row for people: its key, revision and as much of the value as fits.
func (r *scanRow) line() string {
	key := string(r.Namespace)
	if r.Run != nil {
		key += "@" + *r.Run
	}
	for _, segment := range r.Path {
		text, ok := segment.(string)
		if !ok {
			text = string(marshal(segment))
		}
		key += "/" + quoteControls(text)
	}
	value := string(r.Value)
	if len(value) > maxShownValue {
		value = strings.ToValidUTF8(value[:maxShownValue], "") + "..."
	}
	return fmt.Sprintf("%s  %d  %s", key, r.Revision, value)
}

// quoteControls writes a segment so that it neither reaches the terminal's controls
// nor reads as two.
func quoteControls(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '/' || r == '"' || r == 0x7f || r >= 0x80 && r < 0xa0 }) || s == "" {
		return string(marshal(s))
	}
	return s
}
