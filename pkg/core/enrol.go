package core

import "context"

// Enrolment is one request for a worker certificate.
type Enrolment struct {
	ID        WorkerID
	PublicKey []byte // PKIX, DER
	Token     Secret // the join token; empty for a renewal
	Renewal   bool   // the caller showed a valid certificate of this id and key owner
	Addr      string // where the request came from, for the log
	// HeldKey is the public key of the certificate that the caller of a renewal
	// showed, PKIX, DER. An id that is bound to another key by now is
	// [CodePermissionDenied], so that a forgotten machine cannot take its id back.
	// Empty: not compared.
	HeldKey []byte
}

// Enroller decides who may become a worker. It issues nothing itself.
type Enroller interface {
	// Admit returns nil when the key may carry the id, and binds the id to its
	// first key durably before it does. A wrong, used-up or expired token is
	// [CodeUnauthenticated]; an id bound to another key is [CodePermissionDenied]
	// and the text names `rollout workers forget`. Tokens are compared in constant
	// time. A renewal needs no token and may bring a new key, which replaces the
	// old one.
	Admit(ctx context.Context, e Enrolment) error
}
