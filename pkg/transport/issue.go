package transport

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Lives of certificates.
const (
	CALife     = 10 * 365 * 24 * time.Hour
	AdminLife  = 365 * 24 * time.Hour
	WorkerLife = 24 * time.Hour
	serverLife = 90 * 24 * time.Hour
)

// backdate is how far before its making a certificate's life begins, so that a peer
// whose clock runs a little behind accepts it.
const backdate = 5 * time.Minute

// newKey makes a P-256 key.
func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

// newSerial returns 127 random bits; the first is kept clear so that the DER form
// needs no sign byte and every serial has 32 hex digits at most.
func newSerial() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}

// issuer signs certificates.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
	now  func() time.Time
}

// issue signs a leaf. The life never outlasts the CA's own.
func (i issuer) issue(tmpl *x509.Certificate, pub crypto.PublicKey, life time.Duration) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	now := i.now()
	tmpl.SerialNumber = serial
	tmpl.NotBefore, tmpl.NotAfter = now.Add(-backdate), now.Add(life)
	if tmpl.NotAfter.After(i.cert.NotAfter) {
		tmpl.NotAfter = i.cert.NotAfter
	}
	tmpl.BasicConstraintsValid = true
	tmpl.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, tmpl, i.cert, pub, i.key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

// client signs a certificate for a caller: one URI SAN and EKU ClientAuth only.
func (i issuer) client(run core.RunID, role Role, name string, pub crypto.PublicKey, life time.Duration) (*x509.Certificate, error) {
	return i.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: string(role) + " " + name},
		URIs:        []*url.URL{spiffeURI(run, role, name)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, pub, life)
}

// server signs a certificate for the coordinator: EKU ServerAuth only, so that it
// cannot stand for a client.
func (i issuer) server(names []string, pub crypto.PublicKey) (*x509.Certificate, error) {
	tmpl := &x509.Certificate{
		Subject:     pkix.Name{CommonName: "rollout coordinator"},
		DNSNames:    []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	return i.issue(tmpl, pub, serverLife)
}

// newCA makes a self-signed CA that can sign leaves only.
func newCA(now time.Time) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "rollout dev CA " + serialText(serial)[:8]},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(CALife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return cert, key, err
}

// renewAt is half way through a certificate's life, counted from when it was made.
func renewAt(cert *x509.Certificate) time.Time {
	made := cert.NotBefore.Add(backdate)
	if !made.Before(cert.NotAfter) {
		made = cert.NotBefore
	}
	return made.Add(cert.NotAfter.Sub(made) / 2)
}

// readCSR returns the public key that a request carries, of which nothing else is
// used. The signature proves that the requester holds the key.
func readCSR(der []byte) (*ecdsa.PublicKey, error) {
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, core.Errorf("", core.CodeInvalidArgument, "the certificate request is damaged: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, core.Errorf("", core.CodeInvalidArgument, "the certificate request is not signed by its own key: %w", err)
	}
	pub, ok := csr.PublicKey.(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, core.Errorf("", core.CodeInvalidArgument, "the certificate request holds no P-256 key")
	}
	return pub, nil
}

// newCSR makes a request that carries a key and nothing else.
func newCSR(key *ecdsa.PrivateKey) ([]byte, error) {
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}
