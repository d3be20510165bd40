// Package cabi opens plugins that are shared libraries and calls them through
// the C interface of include/rollout_plugin.h. It is the only package with cgo
// for that boundary; without cgo or off Linux, [Open] answers
// [core.CodeUnsupported].
//
// # Layers
//
// [Open] copies the file to where nobody can change it, opens the copy and
// checks the table of functions: that is a [Library], whose methods are plain C
// calls. [NewPlugin] puts the rules of plugin calls around a library: calls one
// after another unless it is thread-safe, deadlines, poison, shutdown.
//
// # Who owns what
//
// Method, payload and configuration belong to Go and are lent to C for one call.
// What the plugin leaves in a buf belongs to the plugin: it is copied once, into
// the slice that the caller gets, and then given to the plugin's free_buf, whatever
// the plugin answered. The table belongs to the plugin and is valid for ever,
// because a library is never closed.
//
// # Which bytes run
//
// With a pin the file is copied to a sealed memory file, hashed there and opened
// from there through /proc/self/fd/N. The loader remembers libraries by that name,
// so N stays open for the life of the process. Without a pin the copy lies in a
// private directory that is removed once the library is open. Either way each
// opening is a library of its own, with variables of its own.
package cabi
