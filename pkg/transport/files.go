package transport

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Modes of everything this package writes.
const (
	modePublic  = 0o644
	modePrivate = 0o600
	modeDir     = 0o700
)

// maxPEMBytes bounds every file that is read: a certificate bundle of many roots
// fits, a device or a log file does not fill the memory.
const maxPEMBytes = 1 << 20

// makeDir creates a private directory, or checks the one that is there.
func makeDir(dir string) error {
	if err := os.MkdirAll(dir, modeDir); err != nil {
		return core.Wrap("create "+dir, core.CodeFailedPrecondition, err)
	}
	return checkPrivate(dir)
}

// checkPrivate refuses a file or directory that others may use or that another user
// owns: whoever can write it can replace a key, whoever can read it has one.
func checkPrivate(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		if info, err = os.Stat(path); err != nil {
			return err
		}
	}
	return checkPrivateInfo(path, info)
}

func checkPrivateInfo(path string, info fs.FileInfo) error {
	if info.Mode().Perm()&0o077 != 0 {
		want := modePrivate
		if info.IsDir() {
			want = modeDir
		}
		return core.Errorf("", core.CodeFailedPrecondition, "%s has mode %04o, which lets others use it: run chmod %o %s", path, info.Mode().Perm(), want, path)
	}
	if uid, ok := ownerOf(info); ok && uid != os.Geteuid() {
		return core.Errorf("", core.CodeFailedPrecondition, "%s belongs to user %d, not to user %d who runs this program: run chown", path, uid, os.Geteuid())
	}
	return nil
}

// readPrivate reads a small file that only its owner may read. The mode is checked
// on the open file, so that nobody can exchange it in between.
func readPrivate(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := checkPrivateInfo(path, info); err != nil {
		return nil, err
	}
	return readBounded(f, info)
}

// readPublic reads a small file that anybody may read.
func readPublic(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return readBounded(f, info)
}

func readBounded(f *os.File, info fs.FileInfo) ([]byte, error) {
	if !info.Mode().IsRegular() || info.Size() > maxPEMBytes {
		return nil, core.Errorf("", core.CodeFailedPrecondition, "%s is not a file of at most %d bytes", f.Name(), maxPEMBytes)
	}
	b := make([]byte, info.Size())
	n, err := f.ReadAt(b, 0)
	if n < len(b) {
		return nil, fmt.Errorf("read %s: %w", f.Name(), err)
	}
	return b, nil
}

// publish puts a file in place whole: temporary file, sync, rename, sync of the
// directory. What was there before is replaced.
func publish(path string, data []byte, mode fs.FileMode) error {
	tmp, err := stage(path, data, mode)
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return syncDir(filepath.Dir(path))
}

// stage writes and syncs data under a temporary name beside path and returns it.
func stage(path string, data []byte, mode fs.FileMode) (string, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.tmp")
	if err != nil {
		return "", err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// exists reports whether path is there, whatever it is.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// withLock runs f while this process alone holds the directory. The lock ends with
// the process, however it ends.
func withLock(dir string, f func() error) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close() // releases the lock
	if err := lockFile(d); err != nil {
		return fmt.Errorf("lock %s: %w", dir, err)
	}
	return f()
}

const (
	pemCert = "CERTIFICATE"
	pemKey  = "PRIVATE KEY"
)

func encodeCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: pemCert, Bytes: der})
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemKey, Bytes: der}), nil
}

// parseCerts reads every certificate of a PEM file, at least one.
func parseCerts(path string, data []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != pemCert {
			return nil, badFile(path, "holds a block %q where certificates are expected", block.Type)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, badFile(path, "holds a damaged certificate: %w", err)
		}
		out = append(out, c)
	}
	if len(out) == 0 || len(bytes.TrimSpace(data)) != 0 {
		return nil, badFile(path, "is not a file of PEM certificates")
	}
	return out, nil
}

// parseKey reads the one P-256 key of a PEM file.
func parseKey(path string, data []byte) (*ecdsa.PrivateKey, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemKey || len(bytes.TrimSpace(rest)) != 0 {
		return nil, badFile(path, "is not a file of one PEM private key")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, badFile(path, "holds a damaged key: %w", err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, badFile(path, "holds a key of another kind than ECDSA")
	}
	return key, nil
}

func badFile(path, format string, args ...any) error {
	return core.Errorf("", core.CodeFailedPrecondition, "%s %w", path, fmt.Errorf(format, args...))
}
