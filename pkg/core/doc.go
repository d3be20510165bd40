// Package core is the vocabulary of the substrate: every interface, identifier,
// error, event and timing rule that two rooms of the house share.
//
// # The system in one page
//
// A coordinator and any number of workers run on one machine or a few. A worker
// enrols with a join token, registers under its own [WorkerID] and receives an
// epoch; from then on it beats. The coordinator measures the silence of each
// worker with its own monotonic clock and declares it failed before two
// heartbeat intervals have passed; the worker measures from the send time of its
// last acknowledged beat and fences itself earlier ([Timing] holds the rule that
// keeps the two apart). Whatever a worker writes afterwards under the old epoch
// is refused inside the transaction that would store it.
//
// Work reaches workers as items of a [Job], leased from a [Queue] to one worker
// epoch, handed to a plugin through a [PluginHost], and committed once with the
// lease that produced it. Bytes too large for a message travel as [ContentID]s
// through an [ObjectStore]. Everything that must survive lies in a [Storage].
// What happened is told as [Event]s.
//
// # Rooms
//
// Data goes one way: cmd, then coordinator and worker, then transport,
// pluginhost, cloudlocal and storage, then core. Core imports the standard
// library and id and hash modules only, so it can be imported by anyone.
//
// # Rules that hold for every method
//
// A method's own comment names only what differs from these.
//
//   - Concurrency: every method of every interface may be called by many
//     goroutines at once. Types that belong to one goroutine ([Txn], [Watcher],
//     [ObjectReader]) say so.
//   - Ownership: a callee keeps no reference to a slice, map or reader that it
//     was given once it has returned, and a caller owns what it is handed back.
//     Neither side modifies the other's memory.
//   - Durability: a method that acknowledges a change returns after the change
//     survives power loss, not merely the end of the process.
//   - Cancellation: a context ends the waiting, never half of a change. When a
//     method returns [CodeCanceled] or [CodeDeadlineExceeded] the change has
//     either happened whole or not at all; the method's comment says whether the
//     caller can tell.
//   - Errors: every error that leaves a room is, or wraps, an [*Error]. Callers
//     branch on [CodeOf] and [RetryOf] only, never on text. A callee does not
//     retry unless its comment says so.
//   - Batches: where an operation exists for many, the single form is a helper
//     over it ([Get], [PutBytes], [EnqueueOne], ...). A batch keeps the order of
//     its input in its output.
//   - Close: releases everything the value holds and waits for what it started.
//     It may be called more than once; calls after it, and calls that it
//     interrupts, fail with [CodeClosed].
//   - Zero values: a nil slice and an empty one mean the same.
//
// # Optional powers
//
// An implementation may offer more than its interface asks for. Such power is a
// second, small interface found by type assertion, never a method that answers
// "unimplemented": [Backuper] for a [Storage] that can be copied while open,
// [Reloader] for a [PluginHost] that can exchange a plugin in place,
// [ReadyCounter] for a [Queue] that counts without reading, and [AckEmitter] for
// an [EventEmitter] that tells what was printed.
//
// # Conformance
//
// Package coretest holds a kit for each interface, with one subtest for each
// sentence of its contract. An implementation is done when the kit passes.
package core
