// Package transport carries the contracts of package core between a coordinator,
// its workers and its operators, over mutual TLS.
//
// # Who is who
//
// A coordinator owns an [Authority]: a CA made once, kept in its TLS directory, and
// a join token. A worker owns an [Identity]: a key that never leaves its machine
// and a certificate of 24 hours that the coordinator issues for the token. An
// operator owns admin.pem. Every caller but one that enrols shows a certificate
// with exactly one URI SAN, which names run, role and name:
//
//	spiffe://rollout/<run_id>/worker/<ULID>    Registry, Heartbeat, Control, Work, Blob
//	spiffe://rollout/<run_id>/admin/<name>     Admin, health, reflection
//
// [Server] checks on every call and on every message of a stream that the role may
// use the method, that the message's worker_id is the certificate's, and that the
// certificate is still valid and not denied. A connection ends with its certificate.
//
// # Wires
//
// [ProtocolH2] is HTTP/2 over TCP. [ProtocolQUIC], which is experimental, carries
// the workers' services over QUIC on the same port number: grpc-go speaks over QUIC
// streams as it does over TCP connections, and heartbeat, control and work each have
// a stream of their own, so that none waits for another's lost packet. HTTP/2 over
// TCP stays open beside it for operators, health, reflection and enrolment.
//
// # API
//
// [NewServer] takes core interfaces and serves them. [DialWorker] and [DialAdmin]
// give them back on the other side: [WorkerConn] is a [core.Registry] and a
// [core.Control] with a heartbeat stream, [AdminConn] is a [core.Admin]. No
// generated type appears in this package's API.
//
// Every answer is stamped with the coordinator's epoch, and an [EpochGuard] refuses
// the answers of a coordinator that has been replaced. Errors are [core.Error]s on
// both sides; [IsRefused] and [IsUnresolved] tell a caller that waiting is useless.
package transport
