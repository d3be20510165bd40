package transport

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Names of the files in a TLS directory.
const (
	FileCA       = "ca.pem"        // the CA's certificate, 0644
	FileCAKey    = "ca.key.pem"    // the CA's key, 0600
	FileToken    = "join.token"    // the join token, 0600
	FileAdmin    = "admin.pem"     // the operator's certificate, 0644
	FileAdminKey = "admin.key.pem" // the operator's key, 0600
	fileReset    = "quic-reset.key"
)

// stagedCA is the CA's certificate before its key is in place. A process that ended
// between the two renames leaves it behind, and the next one completes the pair.
const stagedCA = ".ca.pem.new"

// AuthorityConfig says where an [Authority] lives.
type AuthorityConfig struct {
	// Dir is the TLS directory. It is made with mode 0700.
	Dir string
	// Run is the run that certificates are issued for.
	Run core.RunID
	// Notice is told about a CA that was just made, in one line, such as standard
	// error. nil: nobody.
	Notice io.Writer
	// Now is the wall clock. Default: [time.Now].
	Now func() time.Time
}

// Authority is a coordinator's CA with its join token. It is immutable and safe for
// concurrent use.
type Authority struct {
	dir   string
	run   core.RunID
	roots []*x509.Certificate
	iss   issuer
	token core.Secret
}

// OpenAuthority opens the CA of a TLS directory, and makes it together with the
// join token and the operator's identity where there is none; it does so under a
// lock, so of two coordinators that start at once one makes it and both use it. Half
// a pair, and files that others may use, are [core.CodeFailedPrecondition].
func OpenAuthority(cfg AuthorityConfig) (*Authority, error) {
	const op = "open certificate authority"
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Run.IsZero() {
		return nil, core.Errorf(op, core.CodeInvalidArgument, "no run id was given")
	}
	if err := makeDir(cfg.Dir); err != nil {
		return nil, core.WithOp(op, err)
	}
	var a *Authority
	err := withLock(cfg.Dir, func() error {
		made, err := ensureCA(cfg.Dir, cfg.Now())
		if err != nil {
			return err
		}
		if a, err = loadAuthority(cfg.Dir, cfg.Run, cfg.Now); err != nil {
			return err
		}
		if err := a.ensureToken(); err != nil {
			return err
		}
		if err := a.ensureAdmin(); err != nil {
			return err
		}
		if made && cfg.Notice != nil {
			// The line is for people and the CA stands without it.
			_, _ = fmt.Fprintf(cfg.Notice, "Generated dev CA at %s\n", filepath.Join(cfg.Dir, FileCA))
		}
		return nil
	})
	if err != nil {
		return nil, fileError(op, err)
	}
	return a, nil
}

// LoadAuthority opens the CA that a TLS directory has and makes nothing. The run is
// that of the operator's certificate. Without a CA it is [core.CodeNotFound].
func LoadAuthority(dir string) (*Authority, error) {
	const op = "load certificate authority"
	data, err := readPublic(filepath.Join(dir, FileAdmin))
	if err != nil {
		return nil, fileError(op, err)
	}
	certs, err := parseCerts(filepath.Join(dir, FileAdmin), data)
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	c, err := callerOf(certs[0])
	if err != nil {
		return nil, core.WithOp(op, err)
	}
	a, err := loadAuthority(dir, c.Run, time.Now)
	if err != nil {
		return nil, fileError(op, err)
	}
	tok, err := readPrivate(filepath.Join(dir, FileToken))
	if err != nil {
		return nil, fileError(op, err)
	}
	a.token = core.NewSecret(bytes.TrimSpace(tok))
	return a, nil
}

// fileError gives errors of the file system a code; coded ones keep theirs.
func fileError(op string, err error) error {
	var ce *core.Error
	switch {
	case errors.As(err, &ce):
		return core.WithOp(op, err)
	case errors.Is(err, fs.ErrNotExist):
		return core.Wrap(op, core.CodeNotFound, err)
	}
	return core.Wrap(op, core.CodeFailedPrecondition, err)
}

// ensureCA makes the pair when neither half is there and reports whether it did.
func ensureCA(dir string, now time.Time) (bool, error) {
	certPath, keyPath, staged := filepath.Join(dir, FileCA), filepath.Join(dir, FileCAKey), filepath.Join(dir, stagedCA)
	hasCert, err := exists(certPath)
	if err != nil {
		return false, err
	}
	hasKey, err := exists(keyPath)
	if err != nil {
		return false, err
	}
	switch {
	case hasCert && hasKey:
		return false, nil
	case hasCert:
		return false, core.Errorf("", core.CodeFailedPrecondition, "%s is there and %s is not: put the key back, or remove the certificate to start with a new CA that no worker trusts yet", certPath, keyPath)
	case hasKey:
		if ok, err := exists(staged); err != nil || !ok {
			return false, core.Errorf("", core.CodeFailedPrecondition, "%s is there and %s is not: put the certificate back, or remove the key to start with a new CA that no worker trusts yet", keyPath, certPath)
		}
		return true, commitCA(staged, certPath)
	}
	cert, key, err := newCA(now)
	if err != nil {
		return false, err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return false, err
	}
	if err := publish(staged, encodeCert(cert.Raw), modePublic); err != nil {
		return false, err
	}
	if err := publish(keyPath, keyPEM, modePrivate); err != nil {
		return false, err
	}
	return true, commitCA(staged, certPath)
}

func commitCA(staged, path string) error {
	if err := os.Rename(staged, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// loadAuthority reads the pair. The first certificate of the file signs; further
// ones are roots that are still trusted while a CA is being replaced.
func loadAuthority(dir string, run core.RunID, now func() time.Time) (*Authority, error) {
	certPath, keyPath := filepath.Join(dir, FileCA), filepath.Join(dir, FileCAKey)
	data, err := readPublic(certPath)
	if err != nil {
		return nil, err
	}
	roots, err := parseCerts(certPath, data)
	if err != nil {
		return nil, err
	}
	keyPEM, err := readPrivate(keyPath)
	if err != nil {
		return nil, err
	}
	key, err := parseKey(keyPath, keyPEM)
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(roots[0].PublicKey) {
		return nil, core.Errorf("", core.CodeFailedPrecondition, "%s and %s do not belong together: put the matching one back", certPath, keyPath)
	}
	if err := checkLife(certPath, roots[0], now()); err != nil {
		return nil, err
	}
	return &Authority{dir: dir, run: run, roots: roots, iss: issuer{cert: roots[0], key: key, now: now}}, nil
}

// checkLife refuses a certificate outside its life, blaming the clock where the
// clock may be to blame.
func checkLife(path string, c *x509.Certificate, now time.Time) error {
	switch {
	case now.Before(c.NotBefore):
		return core.Errorf("", core.CodeFailedPrecondition, "%s is valid from %s, the clock says %s: set the clock", path, c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case now.After(c.NotAfter):
		return core.Errorf("", core.CodeFailedPrecondition, "%s was valid until %s, the clock says %s: set the clock, or replace it", path, c.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}

// ensureToken reads the join token, and makes it when there is none.
func (a *Authority) ensureToken() error {
	path := filepath.Join(a.dir, FileToken)
	b, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = []byte(NewToken().Reveal())
		err = publish(path, append(bytes.Clone(b), '\n'), modePrivate)
	}
	if err != nil {
		return err
	}
	text := bytes.TrimSpace(b)
	if len(text) == 0 || len(text) > maxTokenBytes || strings.ContainsAny(string(text), " \t\r\n") {
		return badFile(path, "is not one token: remove it to get a new one")
	}
	a.token = core.NewSecret(text)
	return nil
}

// maxTokenBytes bounds a join token.
const maxTokenBytes = 256

// NewToken makes a join token of 256 random bits in URL-safe base 64.
func NewToken() core.Secret {
	raw := make([]byte, 32)
	rand.Read(raw) // never fails: crypto/rand ends the process instead
	return core.NewSecret(base64.RawURLEncoding.AppendEncode(nil, raw))
}

// Run returns the run that certificates are issued for.
func (a *Authority) Run() core.RunID { return a.run }

// Dir returns the TLS directory.
func (a *Authority) Dir() string { return a.dir }

// JoinToken returns the token of join.token. Storage keeps its hash only.
func (a *Authority) JoinToken() core.Secret { return a.token }

// Pool returns a new pool of the CA's certificates, the system's not among them.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range a.roots {
		p.AddCert(c)
	}
	return p
}

// IssueWorker signs a worker's certificate for a public key. It asks nobody whether
// the worker may have it; [core.Enroller] does that for calls over the wire.
func (a *Authority) IssueWorker(id core.WorkerID, pub crypto.PublicKey, life time.Duration) (*x509.Certificate, error) {
	c, err := a.iss.client(a.run, RoleWorker, id.String(), pub, life)
	return c, core.Wrap("issue worker certificate", core.CodeInternal, err)
}

// WorkerCertificate makes a key and a certificate for a worker, for load harnesses
// and for machines that cannot enrol by themselves.
func (a *Authority) WorkerCertificate(id core.WorkerID, life time.Duration) (tls.Certificate, error) {
	const op = "issue worker certificate"
	key, err := newKey()
	if err != nil {
		return tls.Certificate{}, core.Wrap(op, core.CodeInternal, err)
	}
	c, err := a.IssueWorker(id, key.Public(), life)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key, Leaf: c}, nil
}
