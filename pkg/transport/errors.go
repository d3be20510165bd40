package transport

import (
	"errors"
	"net"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// IsRefused reports whether the other side refused this one for good: a wrong CA or
// certificate, a bad token, another run, no common protocol version, or a role that
// may not do this. Waiting does not help; a program ends with status 3.
func IsRefused(err error) bool {
	switch core.CodeOf(err) {
	case core.CodeUnauthenticated, core.CodePermissionDenied, core.CodeVersionMismatch:
		return err != nil
	}
	return false
}

// IsUnresolved reports whether the coordinator's host name does not exist. At a
// first start that is a spelling mistake; later it may be a passing fault of the
// name service.
func IsUnresolved(err error) bool {
	var d *net.DNSError
	return errors.As(err, &d) && d.IsNotFound
}
