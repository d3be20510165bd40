// Package cloudlocal gives a worker what a cloud would, from one directory and
// no service: objects, queues, secrets, and the inventory of the machine.
//
// Its callers are the coordinator, the worker and the rollout tool. It imports
// core, and storage for its rows; it knows nothing of transport or plugins.
//
// [Queue] keeps its rows in a [core.Storage] in namespace "queue"; the layout of
// the rows stands above the record types.
package cloudlocal
