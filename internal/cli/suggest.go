package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rollout-substrate/rollout/internal/config"
)

// otherWords are what users of comparable systems type, by the command that they mean.
func otherWords() map[string]string {
	return map[string]string{
		"logs": "events", "log": "events", "tail": "events", "watch": "events",
		"nodes": "workers", "ps": "workers", "top": "workers", "list": "jobs", "ls": "jobs",
		"stop": "drain", "kill": "drain", "remove": "drain", "run": "submit", "batch": "submit",
		"start": "dev", "up": "dev", "serve": "dev", "server": "dev", "health": "status", "info": "status", "ping": "status",
		"check": "doctor", "diagnose": "doctor", "backup": "store", "restore": "store", "certs": "cert", "ca": "cert",
	}
}

// meant returns the command below cmd that a wrong word is close to, "" for none.
func meant(cmd *cobra.Command, word string) string {
	var names []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	if !cmd.HasParent() {
		if name := otherWords()[word]; name != "" {
			return name
		}
	}
	return config.Nearest(word, names)
}

// wrongCommand is the usage error for a word that is no command below cmd.
func wrongCommand(cmd *cobra.Command, word string) error {
	msg := fmt.Sprintf("%q is no command of %s", word, cmd.CommandPath())
	if name := meant(cmd, word); name != "" {
		msg += fmt.Sprintf(", did you mean %q?", name)
	}
	return usageError{err: errors.New(msg), page: cmd.CommandPath()}
}

// wrongFlag makes an error of a flag a usage error that names the closest flag.
func wrongFlag(cmd *cobra.Command, err error) error {
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "" {
		var names []string
		cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if name := config.Nearest(unknown.GetSpecifiedName(), names); name != "" {
			err = fmt.Errorf("%w, did you mean --%s?", err, name)
		}
	}
	return usageError{err: err, page: cmd.CommandPath()}
}

// nearFlag adds the closest flag to an error of the standard library's flags.
func nearFlag(err error, names []string) error {
	wrong, ok := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !ok {
		return err
	}
	err = fmt.Errorf("unknown flag: --%s", strings.TrimPrefix(wrong, "-"))
	if name := config.Nearest(strings.TrimPrefix(wrong, "-"), names); name != "" {
		err = fmt.Errorf("%w, did you mean --%s?", err, name)
	}
	return err
}
