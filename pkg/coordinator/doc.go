// Package coordinator is the process that knows who is alive. It keeps the book of
// workers in a [core.Storage], watches their heartbeats, hands them commands, and
// tells what happened as events. [Run] serves one until its context ends; it can be
// embedded in any program.
//
// # Who is alive
//
// A beat is judged in memory, by [Coordinator.Beat], under one lock and without the
// disk; package liveness holds the rules. What a beat says besides (its number, busy
// slots, the clock's drift) is coalesced and written every [Config.FlushInterval]. A
// beat that brings another state or other plugins is answered when that is durable.
// While the store keeps a worker waiting, its silence does not count.
//
// # Rows
//
//	meta/run_id                  the run, made once
//	meta/epoch                   the coordinator's epoch, raised by each start
//	meta/events_printed          the last event known as printed
//	workers/<ULID>               the registry row: state, verdict, epoch, inventory
//	heartbeats/<ULID>            the last beat, coalesced
//	commands/<ULID>              numbers of a worker's commands and its last answers
//	commands/<ULID>/<number>     a command not yet acknowledged
//	keys/<ULID>                  the key that the id is bound to
//	tokens/<hash>                a join token: its hash, end and uses
//	events/<number>              a domain event
//
// Values are JSON objects; keys and numbers are text. All of them are written by one
// writer goroutine that puts the changes that wait into one transaction: 1,000
// registrations at once cost a handful of commits.
//
// # Epochs
//
// Each start raises the coordinator's epoch, and every transaction reads that row:
// what an older coordinator still tries to store fails with [core.CodeFenced], and
// its Run ends. Each registration gives a worker a higher epoch, and the
// transaction that stores what a worker says reads its row, so a message of an older
// epoch changes nothing, whenever it arrives.
//
// # Events
//
// A domain event is recorded in the transaction that makes the change it tells, and
// printed from the record. What was not known as printed when a process ended is
// printed again by the next, marked as replayed.
//
// # Locks
//
// Coordinator.mu guards memory and is taken before writer.mu. The writer calls back
// with neither held. The outbox has a lock of its own, which is never held together
// with the others.
package coordinator
