package transport

import (
	"context"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/url"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// Role is what a certificate entitles its holder to.
type Role string

// The roles.
const (
	RoleNone   Role = ""       // no certificate was shown; may enrol
	RoleWorker Role = "worker" // Registry, Heartbeat, Control, Work and Blob
	RoleAdmin  Role = "admin"  // Admin, health and reflection
)

// trustDomain is the host part of every SAN.
const trustDomain = "rollout"

// Caller is who a certificate names.
type Caller struct {
	Run      core.RunID
	Role     Role
	Name     string        // the worker's ULID, or the operator's name
	Worker   core.WorkerID // of a worker
	Serial   string        // of the certificate, lower-case hex
	NotAfter time.Time     // end of the certificate's life
	Addr     string        // where the connection comes from

	key string // the certificate's public key, PKIX, DER
}

// uri returns the SAN of a name.
func spiffeURI(run core.RunID, role Role, name string) *url.URL {
	return &url.URL{Scheme: "spiffe", Host: trustDomain, Path: "/" + run.String() + "/" + string(role) + "/" + name}
}

// callerOf reads who a verified certificate names. Anything but exactly one URI SAN
// of the one accepted form, and no other kind of SAN, is [core.CodeUnauthenticated].
func callerOf(cert *x509.Certificate) (Caller, error) {
	if n := len(cert.URIs); n != 1 {
		return Caller{}, core.Errorf("", core.CodeUnauthenticated, "the certificate has %d URI names, exactly one is needed", n)
	}
	c, err := parseURI(cert.URIs[0].String())
	if err != nil {
		return Caller{}, err
	}
	c.Serial, c.NotAfter, c.key = serialText(cert.SerialNumber), cert.NotAfter, string(cert.RawSubjectPublicKeyInfo)
	return c, nil
}

// parseURI reads a SAN. One identity has one spelling: the text must be what
// [spiffeURI] would print.
func parseURI(text string) (Caller, error) {
	fail := func(why string) (Caller, error) {
		if len(text) > 128 {
			text = text[:128] + "..."
		}
		return Caller{}, core.Errorf("", core.CodeUnauthenticated, "the certificate's name %q %s", text, why)
	}
	rest, ok := strings.CutPrefix(text, "spiffe://"+trustDomain+"/")
	if !ok {
		return fail("is not of this system")
	}
	parts := strings.Split(rest, "/")
	if len(parts) != 3 {
		return fail("is not run, role and name")
	}
	run, err := core.ParseRunID(parts[0])
	if err != nil {
		return fail("names no run")
	}
	c := Caller{Run: run, Role: Role(parts[1]), Name: parts[2]}
	switch c.Role {
	case RoleWorker:
		if c.Worker, err = core.ParseWorkerID(c.Name); err != nil {
			return fail("names no worker")
		}
	case RoleAdmin:
		if err := CheckAdminName(c.Name); err != nil {
			return fail("names no operator")
		}
	default:
		return fail("has an unknown role")
	}
	return c, nil
}

// CheckAdminName accepts 1 to 64 of a-z, 0-9 and "-"; anything else is
// [core.CodeInvalidArgument].
func CheckAdminName(name string) error {
	ok := len(name) >= 1 && len(name) <= 64
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return core.Errorf("", core.CodeInvalidArgument, "%q is no operator's name, use 1 to 64 of a-z, 0-9 and -", name)
	}
	return nil
}

// serialText is how a serial is written in logs, rows and deny lists.
func serialText(n *big.Int) string { return fmt.Sprintf("%032x", n) }

// CallerFrom returns who made the call that a handler serves. It reports false
// outside a call and for an enrolment.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c := connOf(ctx)
	if c == nil || c.caller.Role == RoleNone {
		return Caller{}, false
	}
	return c.caller, true
}
