// Package jobs is the coordinator's book of work: jobs, their items and results,
// and the sessions through which workers get the one and hand in the other.
//
// The coordinator calls it, and transport reaches it through [core.Work] and
// [core.Jobs]. It stands on a [core.Queue] for items and leases, on a
// [core.Storage] for jobs and results, and on a [core.ObjectStore] for large
// payloads. It imports core alone.
//
// Every result is stored by the queue in the transaction that checks its lease,
// so an item may be computed twice but is committed once. Counts live in memory
// and are rebuilt from the results at start.
package jobs
