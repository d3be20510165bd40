package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/pkg/core"
)

func eventsCmd(t *tool) *cobra.Command {
	var (
		follow bool
		after  uint64
	)
	c := &cobra.Command{
		Use: "events", Short: "Show what the coordinator has recorded",
		Long: "events shows the recorded domain events, printed by the coordinator or not, in order.\n" +
			"With --json each is one line {\"seq\":n,\"event\":{...}}.",
		Args: args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return t.admin(cmd.Context(), func(ctx context.Context, a core.Admin) error {
				err := a.Events(ctx, after, follow, t.printEvent)
				if follow && ctx.Err() != nil && core.IsCode(err, core.CodeCanceled) {
					return nil // following ends when it is told to
				}
				return err
			})
		},
	}
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with new events until interrupted")
	c.Flags().Uint64Var(&after, "after", 0, "start behind this number")
	return c
}

func (t *tool) printEvent(e core.StoredEvent) error {
	if t.json {
		return t.printJSON(e)
	}
	ev := e.Event
	attrs := ""
	if len(ev.Attrs) > 0 {
		b, err := json.Marshal(ev.Attrs)
		if err != nil {
			return core.Wrap("print event", core.CodeInternal, err)
		}
		attrs = cell(string(b))
	}
	line := fmt.Sprintf("%6d  %s  %-5s  %-21s  %-26s  %s %s", e.Seq, ev.Time.Local().Format("2006-01-02 15:04:05.000"),
		ev.Level, ev.Topic, ev.WorkerID, strings.TrimSpace(strings.Trim(cell(ev.Message), "-")), attrs)
	_, err := fmt.Fprintln(t.stdout, strings.TrimRight(line, " "))
	return err
}
