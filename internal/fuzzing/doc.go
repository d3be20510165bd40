// Package fuzzing runs every fuzz target of the repository for a while. It has
// tests only: the targets themselves lie beside the decoders that they feed, and
// their seeds are ordinary cases of `make test`.
package fuzzing
