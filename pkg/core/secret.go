package core

import (
	"context"
	"fmt"
	"log/slog"
)

// redacted is what every formatter prints for a secret.
const redacted = "[redacted]"

// Secret is a value that cannot be printed: every formatting verb, slog, JSON
// and text encoder shows "[redacted]". Only [Secret.Reveal] gives the bytes.
type Secret struct{ b []byte }

// NewSecret returns a secret that owns b.
func NewSecret(b []byte) Secret { return Secret{b: b} }

// Reveal returns the bytes. The caller must not modify, log or keep them longer
// than needed.
func (s Secret) Reveal() []byte { return s.b }

// Len returns the length in bytes.
func (s Secret) Len() int { return len(s.b) }

// String returns "[redacted]".
func (s Secret) String() string { return redacted }

// GoString returns "[redacted]".
func (s Secret) GoString() string { return redacted }

// Format prints "[redacted]" for every verb.
func (s Secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, redacted) }

// LogValue makes slog print "[redacted]".
func (s Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON encodes the secret as the text "[redacted]".
func (s Secret) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }

// MarshalText encodes the secret as "[redacted]".
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// MarshalBinary refuses, so that no binary encoder carries the bytes by accident.
func (s Secret) MarshalBinary() ([]byte, error) {
	return nil, Errorf("encode secret", CodeUnsupported, "a secret cannot be encoded")
}

// SecretStore hands out secrets by name. Names are [A-Z0-9_]+, at most 128 bytes.
// Errors name the variable or file, never the value.
type SecretStore interface {
	// Get returns a secret. A name outside the allowlist is
	// [CodePermissionDenied], an allowed one that is absent [CodeNotFound], a
	// malformed name or value [CodeInvalidArgument].
	Get(ctx context.Context, name string) (Secret, error)

	// Put stores a secret. A read-only store answers [CodeUnsupported], and its
	// text says read-only.
	Put(ctx context.Context, name string, value Secret) error
}
