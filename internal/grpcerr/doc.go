// Package grpcerr carries a [core.Error] over gRPC and back.
//
// Out: [ToStatus] turns an error into a status whose code foreign clients
// understand and whose detail, rollout.transport.v1.Error, holds the operation, the
// code's number, the text and the retry hint. In: [FromStatus] reads the detail and
// gives the same code, hint and text again, under the operation of the sender.
// A status without a detail, from gRPC itself or from a foreign peer, is read by
// its gRPC code. A rollout.plugin.v1.PluginError among the details is the failure
// that a plugin reports of itself.
//
// The interceptors do this for every call of a server or a client, so handlers and
// callers never see a status.
package grpcerr
