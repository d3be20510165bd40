package cloudlocal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// SecretPrefix begins the name of every environment variable that holds a secret.
const SecretPrefix = "ROLLOUT_SECRET_"

const (
	maxSecretName  = 128
	maxSecretValue = 64 << 10
)

// SecretsConfig configures a secret store. The zero value hands out nothing.
type SecretsConfig struct {
	Allow   []string // names that may be read, without the prefix
	Dir     string   // directory of files named like the secrets, mode 0700 and owned by this user; empty: none
	Environ []string // "NAME=value" strings; nil: the environment of the process, read at each call
}

// Validate returns every rule that the configuration breaks.
func (c SecretsConfig) Validate() core.Violations {
	var vs core.Violations
	for _, name := range c.Allow {
		if err := checkSecretName(name); err != nil {
			vs = append(vs, core.Violation{Key: "secrets.allow", Msg: err.Error()})
		}
	}
	if c.Dir != "" {
		if err := checkSecretDir(c.Dir); err != nil {
			vs = append(vs, core.Violation{Key: "secrets.dir", Msg: err.Error()})
		}
	}
	return vs
}

// Secrets is a read-only [core.SecretStore]. The value of NAME is that of the
// variable ROLLOUT_SECRET_NAME, else the content of the file NAME in the directory
// without the line end that closes it. Values are UTF-8 text of at most 64 KiB
// without a zero byte; an empty variable counts as not set.
type Secrets struct {
	allow   map[string]bool
	dir     *os.Root // nil: none
	dirName string
	environ []string
}

var _ core.SecretStore = (*Secrets)(nil)

// NewSecrets returns a secret store. The caller closes it.
func NewSecrets(cfg SecretsConfig) (*Secrets, error) {
	const op = "secrets: open"
	if err := cfg.Validate().Err(op); err != nil {
		return nil, err
	}
	s := &Secrets{allow: map[string]bool{}, dirName: cfg.Dir, environ: slices.Clone(cfg.Environ)}
	for _, name := range cfg.Allow {
		s.allow[name] = true
	}
	if cfg.Dir != "" {
		root, err := os.OpenRoot(cfg.Dir)
		if err != nil {
			return nil, fsError(op, err)
		}
		s.dir = root
	}
	return s, nil
}

// Close releases the directory.
func (s *Secrets) Close() error {
	if s.dir == nil {
		return nil
	}
	return fsError("secrets: close", s.dir.Close())
}

// Get implements [core.SecretStore].
func (s *Secrets) Get(ctx context.Context, name string) (core.Secret, error) {
	const op = "secrets: get"
	if err := ctx.Err(); err != nil {
		return core.Secret{}, core.Wrap(op, core.CodeCanceled, err)
	}
	if err := checkSecretName(name); err != nil {
		return core.Secret{}, core.Wrap(op, core.CodeInvalidArgument, err)
	}
	variable := SecretPrefix + name
	if !s.allow[name] {
		return core.Secret{}, core.Errorf(op, core.CodePermissionDenied, "%s is not allowed, add %q to secrets.allow", variable, name)
	}
	if value := s.lookup(variable); value != "" {
		return secretOf(op, "the variable "+variable, []byte(value))
	}
	if s.dir == nil {
		return core.Secret{}, core.Errorf(op, core.CodeNotFound, "%s is allowed but not set", variable)
	}
	value, err := s.read(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return core.Secret{}, core.Errorf(op, core.CodeNotFound, "%s is allowed but not set, and %s has no file %s", variable, s.dirName, name)
	case errors.Is(err, errNoSecretFile):
		return core.Secret{}, core.Wrap(op, core.CodeInvalidArgument, fmt.Errorf("%s/%s: %w", s.dirName, name, err))
	case err != nil:
		return core.Secret{}, fsError(op, err)
	}
	return secretOf(op, "the file "+s.dirName+"/"+name, value)
}

// Put implements [core.SecretStore]: it refuses.
func (s *Secrets) Put(_ context.Context, name string, _ core.Secret) error {
	return core.Errorf("secrets: put", core.CodeUnsupported, "the secret store is read-only: set %s%.128s or mount a file instead", SecretPrefix, name)
}

func (s *Secrets) lookup(variable string) string {
	if s.environ == nil {
		return os.Getenv(variable)
	}
	value := ""
	for _, kv := range s.environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k == variable {
			value = v // as in a process, the last one counts
		}
	}
	return value
}

var errNoSecretFile = errors.New("it is not a plain file")

func (s *Secrets) read(name string) ([]byte, error) {
	info, err := s.dir.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errNoSecretFile
	}
	f, err := s.dir.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSecretValue+3)) // one too many, and a line end
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	b, _ = bytes.CutSuffix(b, []byte("\n"))
	b, _ = bytes.CutSuffix(b, []byte("\r"))
	return b, nil
}

// secretOf checks a value without ever quoting it.
func secretOf(op, where string, value []byte) (core.Secret, error) {
	what := ""
	switch {
	case len(value) == 0:
		what = "is empty"
	case len(value) > maxSecretValue:
		what = fmt.Sprintf("has more than %d bytes", maxSecretValue)
	case !utf8.Valid(value):
		what = "is not UTF-8 text"
	case bytes.IndexByte(value, 0) >= 0:
		what = "has a zero byte"
	default:
		return core.NewSecret(value), nil
	}
	return core.Secret{}, core.Errorf(op, core.CodeInvalidArgument, "%s %s", where, what)
}

func checkSecretName(name string) error {
	if name == "" || len(name) > maxSecretName {
		return fmt.Errorf("a secret's name has 1 to %d bytes, not %d", maxSecretName, len(name))
	}
	if strings.HasPrefix(name, SecretPrefix) {
		return fmt.Errorf("%q: leave out the prefix %s", name, SecretPrefix)
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' {
			return fmt.Errorf("%q: byte %d of a secret's name is none of A to Z, 0 to 9 and _", name, i)
		}
	}
	return nil
}

func checkSecretDir(dir string) error {
	info, err := os.Stat(dir)
	switch {
	case err != nil:
		return err
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s has mode %04o and may be read by others: chmod 0700 it", dir, info.Mode().Perm())
	case !ownedByUs(info):
		return fmt.Errorf("%s belongs to another user", dir)
	}
	return nil
}

// WithoutSecrets returns environ without the variables that hold secrets. Every
// process that is started gets its environment through it.
func WithoutSecrets(environ []string) []string {
	return slices.DeleteFunc(slices.Clone(environ), func(kv string) bool { return strings.HasPrefix(kv, SecretPrefix) })
}
