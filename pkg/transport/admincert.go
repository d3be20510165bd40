package transport

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// defaultAdmin is the name of the operator whose identity a coordinator makes.
const defaultAdmin = "admin"

// ensureAdmin makes the operator's identity when it is missing, belongs to another
// run or CA, or has less than a quarter of its life left.
func (a *Authority) ensureAdmin() error {
	certPath, keyPath := filepath.Join(a.dir, FileAdmin), filepath.Join(a.dir, FileAdminKey)
	hasCert, err := exists(certPath)
	if err != nil {
		return err
	}
	hasKey, err := exists(keyPath)
	if err != nil {
		return err
	}
	if hasCert && hasKey {
		pair, err := loadPair(certPath, keyPath)
		// A process that ended between the two renames of a renewal leaves halves that
		// do not match; whoever holds the CA may simply make the next pair.
		if err != nil && !errors.Is(err, errPairMismatch) {
			return err
		}
		if err == nil && a.adminFits(pair.Leaf) {
			return nil
		}
	}
	if hasCert && !hasKey {
		return core.Errorf("", core.CodeFailedPrecondition, "%s is there and %s is not: put the key back, or remove the certificate to get a new pair", certPath, keyPath)
	}
	return a.writeAdmin(a.dir, defaultAdmin, AdminLife)
}

func (a *Authority) adminFits(c *x509.Certificate) bool {
	caller, err := callerOf(c)
	if err != nil || caller.Run != a.run || caller.Role != RoleAdmin {
		return false
	}
	now := a.iss.now()
	if _, err := c.Verify(x509.VerifyOptions{Roots: a.Pool(), CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return false
	}
	return c.NotAfter.Sub(now) > AdminLife/4
}

// IssueAdmin makes a key and a certificate for an operator and writes them to dir as
// admin.pem and admin.key.pem, together with ca.pem, so that dir can be handed to
// the operator as a TLS directory. A pair that is there is replaced.
func (a *Authority) IssueAdmin(dir, name string, life time.Duration) error {
	const op = "issue admin certificate"
	if err := CheckAdminName(name); err != nil {
		return core.WithOp(op, err)
	}
	if err := makeDir(dir); err != nil {
		return core.WithOp(op, err)
	}
	err := withLock(dir, func() error {
		if err := a.writeAdmin(dir, name, life); err != nil {
			return err
		}
		if dir == a.dir {
			return nil
		}
		var bundle []byte
		for _, c := range a.roots {
			bundle = append(bundle, encodeCert(c.Raw)...)
		}
		return publish(filepath.Join(dir, FileCA), bundle, modePublic)
	})
	if err != nil {
		return fileError(op, err)
	}
	return nil
}

// writeAdmin puts the key in place first: a certificate without its key is what a
// reader would trip over.
func (a *Authority) writeAdmin(dir, name string, life time.Duration) error {
	key, err := newKey()
	if err != nil {
		return err
	}
	c, err := a.iss.client(a.run, RoleAdmin, name, key.Public(), life)
	if err != nil {
		return err
	}
	keyPEM, err := encodeKey(key)
	if err != nil {
		return err
	}
	if err := publish(filepath.Join(dir, FileAdminKey), keyPEM, modePrivate); err != nil {
		return err
	}
	return publish(filepath.Join(dir, FileAdmin), encodeCert(c.Raw), modePublic)
}

// errPairMismatch tells that both files are sound and are not each other's half.
var errPairMismatch = errors.New("do not belong together")

// loadPair reads a certificate and its key.
func loadPair(certPath, keyPath string) (tls.Certificate, error) {
	data, err := readPublic(certPath)
	if err != nil {
		return tls.Certificate{}, err
	}
	certs, err := parseCerts(certPath, data)
	if err != nil {
		return tls.Certificate{}, err
	}
	keyPEM, err := readPrivate(keyPath)
	if err != nil {
		return tls.Certificate{}, err
	}
	key, err := parseKey(keyPath, keyPEM)
	if err != nil {
		return tls.Certificate{}, err
	}
	if !key.PublicKey.Equal(certs[0].PublicKey) {
		return tls.Certificate{}, core.Errorf("", core.CodeFailedPrecondition, "%s and %s %w", certPath, keyPath, errPairMismatch)
	}
	return tls.Certificate{Certificate: [][]byte{certs[0].Raw}, PrivateKey: key, Leaf: certs[0]}, nil
}

// CertInfo describes one certificate file.
type CertInfo struct {
	Path      string    `json:"path"`
	Subject   string    `json:"subject"`
	Identity  string    `json:"identity,omitempty"` // the URI SAN; empty for a CA
	Issuer    string    `json:"issuer"`
	Serial    string    `json:"serial"`
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	CA        bool      `json:"ca"`
}

// Inspect describes every certificate of the files given. A file that is not there
// is left out; without any it is [core.CodeNotFound].
func Inspect(paths ...string) ([]CertInfo, error) {
	const op = "inspect certificates"
	var out []CertInfo
	for _, path := range paths {
		data, err := readPublic(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fileError(op, err)
		}
		certs, err := parseCerts(path, data)
		if err != nil {
			return nil, core.WithOp(op, err)
		}
		for _, c := range certs {
			info := CertInfo{
				Path: path, Subject: c.Subject.CommonName, Issuer: c.Issuer.CommonName, Serial: serialText(c.SerialNumber),
				NotBefore: c.NotBefore, NotAfter: c.NotAfter, CA: c.IsCA,
			}
			if len(c.URIs) == 1 {
				info.Identity = c.URIs[0].String()
			}
			out = append(out, info)
		}
	}
	if len(out) == 0 {
		return nil, core.Errorf(op, core.CodeNotFound, "none of %q is there", paths)
	}
	return out, nil
}
