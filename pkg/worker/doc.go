// Package worker is the process that works: it keeps an identity, proves to the
// coordinator that it lives, stops acting when it cannot, and runs what a
// [core.Worker] does in between.
//
// # Life
//
//	        +--------------- fenced: register again, new epoch --------------+
//	        v                                                                |
//	dial -> register -> Init -> ready -> Ready -> Execute ... -> Drain -> Shutdown -> deregister
//	        (init)              (ready, running)                (draining)            (done, failed)
//
// [Run] goes through it until its context ends, a drain is ordered, or the machine
// is announced to go away; all three drain and return nil. It waits for a
// coordinator that cannot be reached, and for a ca.pem or join.token that is not
// there yet, and says what it waits for. What the other side refuses for good ends
// it. [New] makes a [Process], which runs the same and can be asked how it fares.
//
// Four things run side by side in an epoch, and none waits for another: beats, the
// command stream, the watch over the lease, and the hooks of the [core.Worker].
// Commands are carried out one at a time, in order, and acknowledged.
//
// # Lease
//
// A worker may act for a time counted from the send of its last acknowledged beat
// ([core.Timing].SelfFence). The coordinator counts from the receipt of the same
// beat and waits longer, so a worker that hears nothing has stopped before it is
// declared failed. Time is the larger of what the monotonic clock and, on Linux,
// CLOCK_BOOTTIME say, so a machine that slept fences its worker; wall clocks are not
// looked at, so setting one fences nobody. A process that was stopped finds its
// lease run out at the first thing it does. See the type lease.
//
// Fencing cancels what runs, tells the [core.Worker], prints worker_fenced, and
// registers a new epoch. Plugins stay loaded.
//
// # Replaced
//
// A coordinator that calls the epoch over while the lease still holds has given the
// identity to another process: [Run] returns [core.CodeFenced].
//
// # Store
//
// The worker's own store holds one row, meta/worker: its id, epoch, the last
// coordinator epoch seen, and its last state, as JSON.
package worker
