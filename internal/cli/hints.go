package cli

import "github.com/spf13/cobra"

// hint is what helps to type a command.
type hint struct {
	example string
	// args completes the arguments; nil: files.
	args cobra.CompletionFunc
}

// Ids as examples show them.
const (
	exampleWorker = "01KAVK3WT5V0D7K3GZ8Q4H0R2N"
	exampleJob    = "01KAVK9Q2E5YB7C1M4T6X8Z0AF"
)

// hints has a line for every command that does something, by its path below rollout.
func (t *tool) hints() map[string]hint {
	worker, job, loaded := t.firstArg(t.workerIDs), t.firstArg(t.jobIDs), t.firstArg(t.pluginNames)
	none := cobra.CompletionFunc(cobra.NoFileCompletions)
	return map[string]hint{
		"dev":            {"rollout dev --plugin examples/gsm8k-reward/rollout-plugin.toml", none},
		"status":         {"rollout status\nrollout status --addr coordinator.example.org:50051 --json", none},
		"workers":        {"rollout workers\nrollout workers --json", none},
		"workers forget": {"rollout workers forget " + exampleWorker, worker},
		"drain":          {"rollout drain " + exampleWorker + " --reason \"kernel update\"", worker},
		"submit":         {"rollout submit --plugin gsm8k-reward --method score --input sample.jsonl --wait --output scored.jsonl", none},
		"jobs":           {"rollout jobs\nrollout jobs --limit 0 --json", none},
		"job show":       {"rollout job show " + exampleJob, job},
		"job cancel":     {"rollout job cancel " + exampleJob + " --reason \"wrong input\"", job},
		"job results":    {"rollout job results " + exampleJob + " --wait --output scored.jsonl", job},
		"queue stats":    {"rollout queue stats " + exampleJob, job},
		"queue peek":     {"rollout queue peek " + exampleJob + " --limit 5", job},
		"queue purge":    {"rollout queue purge " + exampleJob, job},
		"dead list":      {"rollout dead list " + exampleJob, job},
		"dead show":      {"rollout dead show " + exampleJob + " 7", job},
		"dead requeue":   {"rollout dead requeue " + exampleJob + "\nrollout dead requeue " + exampleJob + " 7 8", job},
		"dead drop":      {"rollout dead drop " + exampleJob + " 7", job},
		"events":         {"rollout events --follow", none},
		"plugin new":     {"rollout plugin new my-reward\nrollout plugin new --lang c my-reward", none},
		"plugin check":   {"rollout plugin check my-reward/rollout-plugin.toml", nil},
		"plugin call":    {"echo '{\"completion\": \"so it is 4\", \"answer\": \"4\"}' | rollout plugin call my-reward/rollout-plugin.toml score", nil},
		"plugin reload":  {"rollout plugin reload my-reward", loaded},
		"store check":    {"rollout store check data/rollout.db", nil},
		"store backup":   {"rollout store backup data/rollout.db rollout.bak\nrollout store backup --addr 127.0.0.1:50051 rollout.bak", nil},
		"store restore":  {"rollout store restore rollout.bak data/rollout.db", nil},
		"store compact":  {"rollout store compact data/rollout.db", nil},
		"store scan":     {"rollout store scan data/rollout.db workers --json", nil},
		"object put":     {"rollout object put weights.bin\ntar c dir | rollout object put -", nil},
		"object get":     {"rollout object get " + exampleObject + " -o weights.bin", none},
		"object stat":    {"rollout object stat " + exampleObject, none},
		"object list":    {"rollout object list --limit 10", none},
		"object verify":  {"rollout object verify\nrollout object verify --quarantine", none},
		"object gc":      {"rollout object gc --store data/rollout.db --dry-run", none},
		"cert show":      {"rollout cert show\nrollout cert show data/identity/worker.pem", nil},
		"cert issue":     {"rollout cert issue --name alice --out alice-identity", none},
		"cert rotate":    {"rollout cert rotate", none},
		"token new":      {"rollout token new --ttl 1h --uses 3 > join.token", none},
		"config check":   {"rollout config check rollout.toml", nil},
		"config print":   {"rollout config print --for worker", none},
		"doctor":         {"rollout doctor\nrollout doctor --data-dir /srv/rollout --config rollout.toml --json", none},
	}
}

const exampleObject = "9f2c1a7be0d34c55a1e4f6b8d7c3920e5b6a8f1d2c4e6079b8a5d3f1c7e90246"

// giveHints puts the hints on the commands below root.
func (t *tool) giveHints(root *cobra.Command) {
	all := t.hints()
	walkCommands(root, func(c *cobra.Command) {
		h := all[belowRoot(c)]
		if h.example != "" {
			c.Example = h.example
		}
		if h.args != nil {
			c.ValidArgsFunction = h.args
		}
	})
	flags := map[string]cobra.CompletionFunc{
		"log-level":   fixed("debug", "info", "warn", "error"),
		"on-bad-line": fixed("stop", "error"),
		"lang":        fixed("python", "c", "rust", "go"),
		"for":         fixed("coordinator", "worker"),
		"worker":      t.workerIDs,
	}
	walkCommands(root, func(c *cobra.Command) {
		for name, complete := range flags {
			if c.Flags().Lookup(name) != nil || c.PersistentFlags().Lookup(name) != nil {
				completeFlag(c, name, complete)
			}
		}
		if belowRoot(c) == "submit" {
			completeFlag(c, "plugin", t.pluginNames)
		}
	})
}

// completeFlag gives a flag that exists its completion.
func completeFlag(c *cobra.Command, name string, complete cobra.CompletionFunc) {
	// It fails for a flag that is not there or has one, and neither is so.
	_ = c.RegisterFlagCompletionFunc(name, complete)
}

// walkCommands visits root and every command below it.
func walkCommands(root *cobra.Command, visit func(*cobra.Command)) {
	visit(root)
	for _, c := range root.Commands() {
		walkCommands(c, visit)
	}
}

// belowRoot is the path of a command without the program's name.
func belowRoot(c *cobra.Command) string {
	if !c.HasParent() {
		return ""
	}
	if above := belowRoot(c.Parent()); above != "" {
		return above + " " + c.Name()
	}
	return c.Name()
}
