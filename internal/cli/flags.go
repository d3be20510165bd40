package cli

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/internal/version"
)

// options is the command line of coordinator or worker.
type options struct {
	program string
	help    string
	// protocols is the range of wire versions that the program speaks.
	protocols [2]int
	set       *flag.FlagSet
	files     stringList
	dataDir   string
	version   bool
	flags     []config.Flag
}

// stringList is a flag that may be given more than once.
type stringList []string

func (s *stringList) String() string     { return strings.Join(*s, ",") }
func (s *stringList) Set(v string) error { *s = append(*s, v); return nil }

// newOptions returns the flags that both programs have.
func newOptions(program, help string, protocols [2]int) *options {
	o := &options{program: program, help: help, protocols: protocols, set: flag.NewFlagSet(program, flag.ContinueOnError)}
	o.set.SetOutput(io.Discard) // errors are reported by the caller
	o.set.Usage = func() {}     // help by parse
	o.set.Var(&o.files, "config", "")
	o.set.StringVar(&o.dataDir, "data-dir", "", "")
	o.set.BoolVar(&o.version, "version", false, "")
	o.key("log-level", "log.level")
	return o
}

// names returns the flags' names.
func (o *options) names() (names []string) {
	o.set.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	return names
}

// versionLine is what --version prints after the program's name.
func versionLine(protocols [2]int) string {
	speaks := fmt.Sprint(protocols[0])
	if protocols[1] != protocols[0] {
		speaks += fmt.Sprintf(" to %d", protocols[1])
	}
	return fmt.Sprintf("%s, protocol %s", version.Get(), speaks)
}

// key makes a flag that sets a configuration key.
func (o *options) key(name, key string) {
	o.set.Func(name, "", func(v string) error {
		o.flags = append(o.flags, config.Flag{Name: "--" + name, Key: key, Value: v})
		return nil
	})
}

// parse reads the command line. It reports false when the program has nothing more
// to do: help or version was asked for.
func (o *options) parse(args []string, stdout io.Writer) (goOn bool, err error) {
	if len(args) > 0 && args[0] == "run" {
		args = args[1:]
	}
	switch err := o.set.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, err := io.WriteString(stdout, o.help)
		return false, err
	case err != nil:
		return false, usageError{err: nearFlag(err, o.names())}
	case o.version:
		_, err := fmt.Fprintf(stdout, "%s %s\n", o.program, versionLine(o.protocols))
		return false, err
	case o.set.NArg() > 0:
		return false, usagef("%q is no argument of %s", o.set.Arg(0), o.program)
	}
	return true, nil
}

// load reads the configuration.
func (o *options) load(p config.Program) (*config.Loaded, error) {
	return config.Load(config.Options{Program: p, Files: o.files, Environ: os.Environ(), Flags: o.flags, DataDir: o.dataDir})
}
