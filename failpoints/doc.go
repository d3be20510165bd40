// Package failpoints builds programs of this repository against a bbolt that
// fails on demand.
//
// bbolt marks the places where a commit can go wrong with comments that gofail
// turns into code. [Prepare] copies bbolt from the module cache into a directory,
// turns the marks on and writes a go.mod beside it, which `go build -modfile`
// takes instead of the one of the repository. Nothing is downloaded that the two
// modules do not already require, and nothing of bbolt is kept here.
//
// The module is separate so that gofail never becomes a requirement of the
// programs. Its test is the row R5: the storage harness, built this way, run with
// one failpoint after the other.
package failpoints
