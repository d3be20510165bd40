package transport

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Names of the files in an identity directory.
const (
	FileWorker    = "worker.pem"     // the worker's certificate, 0600
	FileWorkerKey = "worker.key.pem" // the worker's key, 0600
)

// Identity is a worker's own key and certificate. The key is made once and never
// leaves the machine; the coordinator binds the worker's id to it. The certificate
// is replaced as it ages. Safe for concurrent use.
type Identity struct {
	dir string
	id  core.WorkerID
	key *ecdsa.PrivateKey
	now func() time.Time

	mu   sync.Mutex       // guards cert; held over no input or output
	cert *tls.Certificate // nil: not enrolled
}

// OpenIdentity opens a worker's identity directory and makes it, with a new key,
// where there is none. A certificate that is damaged, of another worker or of
// another key is [core.CodeFailedPrecondition].
func OpenIdentity(dir string, id core.WorkerID) (*Identity, error) {
	return openIdentity(dir, id, time.Now)
}

func openIdentity(dir string, id core.WorkerID, now func() time.Time) (*Identity, error) {
	const op = "open worker identity"
	if id.IsZero() {
		return nil, core.Errorf(op, core.CodeInvalidArgument, "no worker id was given")
	}
	if err := makeDir(dir); err != nil {
		return nil, core.WithOp(op, err)
	}
	i := &Identity{dir: dir, id: id, now: now}
	err := withLock(dir, func() error {
		if err := i.loadKey(); err != nil {
			return err
		}
		return i.loadCert()
	})
	if err != nil {
		return nil, fileError(op, err)
	}
	return i, nil
}

// loadKey reads the key, and makes it when neither key nor certificate is there.
func (i *Identity) loadKey() error {
	path := filepath.Join(i.dir, FileWorkerKey)
	data, err := readPrivate(path)
	if err == nil {
		i.key, err = parseKey(path, data)
		return err
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if has, err := exists(filepath.Join(i.dir, FileWorker)); err != nil || has {
		return errors.Join(err, core.Errorf("", core.CodeFailedPrecondition, "%s is gone and its certificate is there: put the key back, or remove the directory and have an operator run rollout workers forget %s", path, i.id))
	}
	if i.key, err = newKey(); err != nil {
		return err
	}
	keyPEM, err := encodeKey(i.key)
	if err != nil {
		return err
	}
	return publish(path, keyPEM, modePrivate)
}

func (i *Identity) loadCert() error {
	path := filepath.Join(i.dir, FileWorker)
	data, err := readPrivate(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	certs, err := parseCerts(path, data)
	if err != nil {
		return err
	}
	i.cert, err = i.accept(certs[0])
	return err
}

// accept checks that a certificate is this worker's and pairs it with the key.
func (i *Identity) accept(c *x509.Certificate) (*tls.Certificate, error) {
	who, err := callerOf(c)
	if err != nil {
		return nil, err
	}
	if who.Role != RoleWorker || who.Worker != i.id {
		return nil, core.Errorf("", core.CodeFailedPrecondition, "the certificate in %s is of %s %s, this is worker %s", i.dir, who.Role, who.Name, i.id)
	}
	if !i.key.PublicKey.Equal(c.PublicKey) {
		return nil, core.Errorf("", core.CodeFailedPrecondition, "the certificate in %s is not of the key beside it: remove the certificate to enrol again", i.dir)
	}
	return &tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: i.key, Leaf: c}, nil
}

// store keeps a certificate that the coordinator issued, on disk first.
func (i *Identity) store(der []byte) error {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return core.Errorf("", core.CodeInternal, "the coordinator issued a damaged certificate: %w", err)
	}
	pair, err := i.accept(c)
	if err != nil {
		return err
	}
	if err := publish(filepath.Join(i.dir, FileWorker), encodeCert(der), modePrivate); err != nil {
		return core.Wrap("store certificate", core.CodeFailedPrecondition, err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cert = pair
	return nil
}

// Discard forgets the certificate and keeps the key. Call it when the coordinator
// refuses the certificate, as one with a new run or a deny list does; the worker
// then enrols again under the same id and key.
func (i *Identity) Discard() error {
	i.mu.Lock()
	i.cert = nil
	i.mu.Unlock()
	err := os.Remove(filepath.Join(i.dir, FileWorker))
	if err == nil {
		err = syncDir(i.dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return core.Wrap("discard certificate", core.CodeFailedPrecondition, err)
}

// ID returns the worker's id.
func (i *Identity) ID() core.WorkerID { return i.id }

// Valid reports whether there is a certificate that may be shown now. Without one
// the worker must enrol.
func (i *Identity) Valid() bool { return i.current() != nil }

// current returns the certificate when its life includes now. An expired one is
// never shown to anybody.
func (i *Identity) current() *tls.Certificate {
	i.mu.Lock()
	c := i.cert
	i.mu.Unlock()
	if c == nil {
		return nil
	}
	if now := i.now(); now.Before(c.Leaf.NotBefore) || !now.Before(c.Leaf.NotAfter) {
		return nil
	}
	return c
}

// RenewAt returns when the certificate should be renewed, half way through its
// life, and the zero time when there is none.
func (i *Identity) RenewAt() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cert == nil {
		return time.Time{}
	}
	return renewAt(i.cert.Leaf)
}

// NotAfter returns the end of the certificate's life, and the zero time when there
// is none.
func (i *Identity) NotAfter() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cert == nil {
		return time.Time{}
	}
	return i.cert.Leaf.NotAfter
}

// Serial returns the certificate's serial, lower-case hex; empty when there is none.
func (i *Identity) Serial() string {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cert == nil {
		return ""
	}
	return serialText(i.cert.Leaf.SerialNumber)
}

// getClientCertificate gives TLS the certificate to show, or none.
func (i *Identity) getClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if c := i.current(); c != nil {
		return c, nil
	}
	return &tls.Certificate{}, nil
}
