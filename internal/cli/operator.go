package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/pkg/coordinator"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/rollout-substrate/rollout/pkg/pluginhost"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

const operatorHelp = `rollout asks a running coordinator and tells it what to do.

It shows the operator's identity, admin.pem and admin.key.pem, which the coordinator
makes in its TLS directory; 'rollout cert issue' makes further ones. Every command
takes --json.

exit status: 0 done, 1 failure, 2 wrong usage or configuration, 3 refused by the
coordinator, or not reached within --timeout`

// defaultTimeout is how long the tool tries to reach a coordinator.
const defaultTimeout = 5 * time.Second

// tool is one run of the rollout tool: its streams and the flags of every command.
type tool struct {
	stdin          io.Reader
	stdout, stderr io.Writer

	files    []string
	dataDir  string
	addr     string
	tlsDir   string
	logLevel string
	timeout  time.Duration
	json     bool
}

// Operator runs the rollout tool with the arguments behind the program's name.
func Operator(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == launchVerb {
		return pluginhost.LaunchMain(args[1:])
	}
	t := &tool{stdin: stdin, stdout: stdout, stderr: stderr}
	root := newRoot(t)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil && !readerLeft(err) {
		report(stderr, "rollout", err)
	}
	return t.exitCode(err)
}

// readerLeft reports whether standard output is a pipe that nobody reads any more, as
// behind head: its reader has what it wanted, and needs no message.
func readerLeft(err error) bool {
	var pe *fs.PathError
	return errors.As(err, &pe) && pe.Path == os.Stdout.Name() && errors.Is(err, syscall.EPIPE)
}

// exitCode is that of all programs, except that the tool does not wait for ever: a
// coordinator that could not be reached in time is status 3.
func (t *tool) exitCode(err error) int {
	switch core.CodeOf(err) {
	case core.CodeUnavailable, core.CodeDeadlineExceeded:
		return ExitRefused
	case core.CodeFenced:
		return ExitFailure // only a worker or coordinator has an identity to lose
	}
	return exitCode(err)
}

// newRoot builds the command tree.
func newRoot(t *tool) *cobra.Command {
	root := &cobra.Command{
		Use: "rollout", Short: "Ask a coordinator and tell it what to do", Long: operatorHelp,
		Version: versionLine([2]int{coordinator.ProtocolMin, coordinator.ProtocolMax}), SilenceErrors: true, SilenceUsage: true,
		Args: cobra.ArbitraryArgs, RunE: noCommand,
	}
	root.SetVersionTemplate("rollout {{.Version}}\n")
	root.SetIn(t.stdin)
	root.SetOut(t.stdout)
	root.SetErr(t.stderr)
	root.SetFlagErrorFunc(wrongFlag)
	f := root.PersistentFlags()
	f.StringArrayVar(&t.files, "config", nil, "read a TOML `file`; may be repeated")
	f.StringVar(&t.dataDir, "data-dir", "", "where the defaults lie (default ./data)")
	f.StringVar(&t.addr, "addr", "", "the coordinator's `host:port` (default 127.0.0.1:50051)")
	f.StringVar(&t.tlsDir, "tls-dir", "", "`directory` with ca.pem, admin.pem and admin.key.pem (default ./data/tls)")
	f.StringVar(&t.logLevel, "log-level", "", "debug, info, warn or error (default info)")
	f.DurationVar(&t.timeout, "timeout", defaultTimeout, "how long to try to reach the coordinator")
	f.BoolVar(&t.json, "json", false, "print JSON for programs")
	root.AddCommand(nouns(t)...)
	t.giveHints(root)
	return root
}

// noCommand answers a command line without a command, or with an unknown one.
func noCommand(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return cmd.Help()
	}
	return wrongCommand(cmd, args[0])
}

// group makes a noun whose verbs are commands of their own.
func group(noun cobra.Command, verbs ...*cobra.Command) *cobra.Command {
	noun.Args, noun.RunE = cobra.ArbitraryArgs, noCommand
	noun.AddCommand(verbs...)
	return &noun
}

// args makes wrong positional arguments a usage error.
func args(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check(cmd, args) != nil {
			if cmd.HasSubCommands() && len(args) > 0 {
				return wrongCommand(cmd, args[0])
			}
			wrong := "an argument is missing"
			if len(args) > 0 {
				wrong = fmt.Sprintf("it does not take %s (%q)", count(len(args), "argument"), args)
			}
			return usageError{err: fmt.Errorf("%s; usage: %s", wrong, cmd.UseLine()), page: cmd.CommandPath()}
		}
		return nil
	}
}

// load reads the configuration with the tool's flags on top.
func (t *tool) load(p config.Program) (*config.Loaded, error) {
	o := config.Options{Program: p, Files: t.files, Environ: os.Environ(), DataDir: t.dataDir}
	for _, f := range []config.Flag{
		{Name: "--addr", Key: "coordinator_addr", Value: t.addr},
		{Name: "--tls-dir", Key: "transport.tls_dir", Value: t.tlsDir},
		{Name: "--log-level", Key: "log.level", Value: t.logLevel},
	} {
		if f.Value != "" {
			o.Flags = append(o.Flags, f)
		}
	}
	return config.Load(o)
}

// logger returns where the tool logs, which is little.
func (t *tool) logger(cfg config.Config) *slog.Logger { return newLogger(t.stderr, cfg) }

// printJSON writes one value for programs.
func (t *tool) printJSON(v any) error {
	enc := json.NewEncoder(t.stdout)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// admin calls f with a connection to a coordinator that answers. A coordinator or
// identity that is not there yet is waited for until --timeout; f has no limit of
// its own beyond ctx.
func (t *tool) admin(ctx context.Context, f func(ctx context.Context, a core.Admin) error) error {
	l, err := t.load(config.Operator)
	if err != nil {
		return err
	}
	cfg := transport.AdminConfig{Addr: l.Config.CoordinatorAddr, ServerName: l.Config.CoordinatorDomain, TLSDir: l.Config.TLSDir, Logger: t.logger(l.Config)}
	conn, err := t.reach(ctx, cfg)
	if err != nil {
		return err
	}
	err = f(ctx, conn)
	if cerr := conn.Close(); err == nil {
		err = cerr
	}
	return err
}

// reachPause is the pause between two attempts to reach the coordinator.
const reachPause = 100 * time.Millisecond

// reach dials until the coordinator answers.
func (t *tool) reach(ctx context.Context, cfg transport.AdminConfig) (*transport.AdminConn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.timeout)
	defer cancel()
	var last error // why the attempt before the deadline failed says more than the deadline
	for {
		conn, err := dialAndAsk(ctx, cfg)
		if err == nil {
			return conn, nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if !worthWaiting(err) {
			return nil, last
		}
		select {
		case <-ctx.Done():
			return nil, core.Errorf("rollout", core.CodeUnavailable, "no coordinator was reached at %s within %v: %w", cfg.Addr, t.timeout, last)
		case <-time.After(reachPause):
		}
	}
}

func dialAndAsk(ctx context.Context, cfg transport.AdminConfig) (*transport.AdminConn, error) {
	conn, err := transport.DialAdmin(cfg)
	if err != nil {
		return nil, err
	}
	if _, err = conn.Status(ctx); err != nil {
		// The connection that did not work has nothing more to say.
		_ = conn.Close()
		return nil, err
	}
	return conn, nil
}

// worthWaiting reports whether the coordinator, or the identity that it makes at its
// first start, may still appear.
func worthWaiting(err error) bool {
	if transport.IsUnresolved(err) {
		return false
	}
	switch core.CodeOf(err) {
	case core.CodeUnavailable, core.CodeDeadlineExceeded, core.CodeNotFound:
		return true
	}
	return false
}
