package cli

import (
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/rollout-substrate/rollout/internal/config"
	"github.com/rollout-substrate/rollout/pkg/transport"
)

func certShowCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "show [FILE]...", Short: "Show certificates: those of this machine, or of the files given",
		RunE: func(_ *cobra.Command, files []string) error {
			if len(files) == 0 {
				l, err := t.load(config.Operator)
				if err != nil {
					return err
				}
				dir := l.Config.TLSDir
				files = []string{filepath.Join(dir, transport.FileCA), filepath.Join(dir, transport.FileAdmin), filepath.Join(l.Config.IdentityDir(), transport.FileWorker)}
			}
			infos, err := transport.Inspect(files...)
			if err != nil {
				return suggest(err, "a coordinator makes them at its first start")
			}
			if t.json {
				return t.printJSON(infos)
			}
			return table(t.stdout, certRows(infos, time.Now()))
		},
	}
}

func certRows(infos []transport.CertInfo, now time.Time) [][]string {
	out := [][]string{{"FILE", "SUBJECT", "IDENTITY", "VALID FROM", "VALID TO", "STATE", "SERIAL"}}
	for _, c := range infos {
		state := "valid"
		switch {
		case now.Before(c.NotBefore):
			state = "not yet valid"
		case !now.Before(c.NotAfter):
			state = "expired"
		}
		const day = "2006-01-02 15:04"
		out = append(out, []string{c.Path, c.Subject, c.Identity, c.NotBefore.Local().Format(day), c.NotAfter.Local().Format(day), state, c.Serial})
	}
	return out
}

func certIssueCmd(t *tool) *cobra.Command {
	var (
		name, out string
		ttl       time.Duration
	)
	c := &cobra.Command{
		Use: "issue --name NAME --out DIR", Short: "Make an identity for a further operator",
		Long: "issue writes admin.pem, admin.key.pem and ca.pem to a directory that is handed to the\n" +
			"operator and used as --tls-dir. It needs the CA's key, so it runs on the\n" +
			"coordinator's machine; the coordinator need not run.",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if name == "" || out == "" {
				return usagef("give --name and --out")
			}
			return t.issue(out, name, ttl)
		},
	}
	c.Flags().StringVar(&name, "name", "", "the operator's name: a-z, 0-9 and -")
	c.Flags().StringVar(&out, "out", "", "`directory` to write to")
	c.Flags().DurationVar(&ttl, "ttl", transport.AdminLife, "how long the identity is valid")
	return c
}

func certRotateCmd(t *tool) *cobra.Command {
	return &cobra.Command{
		Use: "rotate", Short: "Replace the operator's identity in the TLS directory by a new one",
		Long: "rotate makes a new key and certificate for the operator of the TLS directory. The\n" +
			"worker's certificate renews itself, and the server's is made at each start.",
		Args: args(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error { return t.issue("", "admin", transport.AdminLife) },
	}
}

// issue makes an operator's identity in out, or in the TLS directory itself.
func (t *tool) issue(out, name string, ttl time.Duration) error {
	if ttl <= 0 {
		return usagef("--ttl must be longer than 0")
	}
	l, err := t.load(config.Coordinator)
	if err != nil {
		return err
	}
	ca, err := transport.LoadAuthority(l.Config.TLSDir)
	if err != nil {
		return suggest(err, "run it on the coordinator's machine, or name its TLS directory with --tls-dir")
	}
	if out == "" {
		out = l.Config.TLSDir
	}
	if err := ca.IssueAdmin(out, name, ttl); err != nil {
		return err
	}
	path := filepath.Join(out, transport.FileAdmin)
	return t.said(map[string]any{"certificate": path, "name": name, "not_after": time.Now().Add(ttl).UTC()}, "wrote %s, valid for %v", path, ttl)
}
