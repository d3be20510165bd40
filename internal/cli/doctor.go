package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/pkg/core"
)

// health is how much a finding matters.
type health string

const (
	healthOK   health = "ok"
	healthNote health = "note" // worth knowing, nothing is wrong
	healthWarn health = "warn" // something will be slower, weaker or missing
	healthFail health = "fail" // something will not work
)

// finding is the outcome of one check.
type finding struct {
	Name   string `json:"name"`
	State  health `json:"state"`
	Found  string `json:"found"`
	Remedy string `json:"remedy"` // empty where nothing is to be done
}

// doctor looks at one machine through one configuration. It changes nothing there,
// but for a temporary file whose writing it measures.
type doctor struct {
	cfg         config.Config // as a coordinator reads it
	workerStore string        // file of a worker with the same configuration
	now         time.Time
	launcher    []string // starts a sidecar launcher
	lookupEnv   func(string) (string, bool)

	findings []finding
}

func (d *doctor) ok(name, format string, args ...any) {
	d.findings = append(d.findings, finding{Name: name, State: healthOK, Found: fmt.Sprintf(format, args...)})
}

// add reports what is not plainly in order.
func (d *doctor) add(name string, state health, remedy, format string, args ...any) {
	d.findings = append(d.findings, finding{Name: name, State: state, Found: fmt.Sprintf(format, args...), Remedy: remedy})
}

func doctorCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Check this machine and say what to mend",
		Long: "doctor looks at what coordinator, workers and plugins need of this machine, and at what\n" +
			"they left in the data directory. It needs no coordinator and changes nothing. Each finding\n" +
			"is ok, note (worth knowing), warn (slower, weaker or missing) or fail (will not work), with\n" +
			"what to do about it. --json prints an array of objects with name, state, found and remedy.\n" +
			"Exit status 1 means that something failed.",
		Example: "rollout doctor\nrollout doctor --data-dir /srv/rollout --config rollout.toml --json",
		Args:    args(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := t.newDoctor()
			if err != nil {
				return err
			}
			d.examine(cmd.Context())
			if err := cmd.Context().Err(); err != nil {
				return core.Wrap("doctor", core.CodeCanceled, err)
			}
			return t.tell(d.findings)
		},
	}
}

// newDoctor reads the configuration. A mistake in it is the first finding, and the
// defaults are looked at instead.
func (t *tool) newDoctor() (*doctor, error) {
	launch, err := launcher()
	if err != nil {
		return nil, err
	}
	d := &doctor{now: time.Now(), launcher: launch, lookupEnv: os.LookupEnv}
	l, err := t.load(config.Coordinator)
	if err != nil {
		d.add("configuration", healthFail, "correct it; until then the checks below look at the defaults", "%s", oneLine(err))
		if l, err = config.Load(config.Options{Program: config.Coordinator, DataDir: t.dataDir}); err != nil {
			return nil, err
		}
	} else if len(l.Warnings) > 0 {
		d.add("configuration", healthWarn, "correct it, or see what holds with: rollout config print", "%s", joined(l.Warnings))
	} else {
		d.ok("configuration", "%s", configured(t.files))
	}
	d.cfg = l.Config
	w, err := t.load(config.Worker)
	if err != nil { // the mistakes are those of the coordinator's, told above
		w, err = config.Load(config.Options{Program: config.Worker, DataDir: t.dataDir})
	}
	if err != nil {
		return nil, err
	}
	d.workerStore = w.Config.StoragePath
	return d, nil
}

func configured(files []string) string {
	if len(files) == 0 {
		return "no file, flags and environment over the defaults"
	}
	return strings.Join(files, ", ")
}

// joined writes any values in one line.
func joined[T any](vs []T) string {
	out := make([]string, len(vs))
	for i, v := range vs {
		out[i] = fmt.Sprint(v)
	}
	return strings.Join(out, "; ")
}

// examine runs every check, in the order of the report.
func (d *doctor) examine(ctx context.Context) {
	began := time.Now()
	for _, check := range []func(context.Context){
		d.machine, d.python, d.compiler, d.limits, d.kernel, d.containment,
		d.dataDir, d.modes, d.disk, d.tempDir, d.certificates, d.stores, d.stale, d.ports,
	} {
		if ctx.Err() != nil {
			return
		}
		check(ctx)
	}
	d.clock(began) // last: it measures over all the others
}

// errDoctor is the outcome of a machine on which something failed.
var errDoctor = errors.New("this machine needs mending")

// tell prints the findings and fails when one of them does.
func (t *tool) tell(found []finding) error {
	var bad []string
	for _, f := range found {
		if f.State == healthFail {
			bad = append(bad, f.Name)
		}
	}
	var err error
	if t.json {
		err = t.printJSON(found)
	} else {
		err = writeFindings(t.stdout, found)
	}
	if err == nil && len(bad) > 0 {
		err = fmt.Errorf("%w: %s", errDoctor, strings.Join(bad, ", "))
	}
	return err
}

// reportWidth is the width that the text of a finding is broken at.
const reportWidth = 76

// writeFindings prints a line for each finding, with its remedy below.
func writeFindings(w io.Writer, found []finding) error {
	name, sum := 0, map[health]int{}
	for _, f := range found {
		name = max(name, len(f.Name))
		sum[f.State]++
	}
	var b strings.Builder
	for _, f := range found {
		lines := wrap(cell(f.Found), reportWidth)
		if f.Remedy != "" {
			for i, line := range wrap(cell(f.Remedy), reportWidth-4) {
				lines = append(lines, [2]string{"to do: ", "       "}[min(i, 1)]+line)
			}
		}
		fmt.Fprintf(&b, "%-4s  %-*s  %s\n", f.State, name, f.Name, lines[0])
		for _, line := range lines[1:] {
			fmt.Fprintf(&b, "%*s%s\n", 4+2+name+2, "", line)
		}
	}
	fmt.Fprintf(&b, "\n%s: %d failed, %s, %s, %d in order\n", count(len(found), "finding"),
		sum[healthFail], count(sum[healthWarn], "warning"), count(sum[healthNote], "note"), sum[healthOK])
	_, err := io.WriteString(w, b.String())
	return err
}

// wrap breaks a text between words into lines of about width bytes.
func wrap(s string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(s) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines, line = append(lines, line), word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}
