// Package liveness decides which workers are alive. It is logic only: it reads no
// clock, starts no goroutine, and does no input or output, so the same inputs
// always give the same transitions and a run can be replayed from a seed.
//
// # Time
//
// Every method takes now, a reading of one monotonic clock as the distance from
// an origin that the caller chooses once. Readings must not go back. A worker's
// own clock plays no part.
//
// # Rules
//
// A worker is watched from [Machine.Watch] or [Machine.Restore] on, in one epoch.
// Its silence is counted from the receipt of its last beat:
//
//   - after one heartbeat interval and a quarter it is suspect, because a beat is
//     missing; a broken connection makes it suspect at once,
//   - after Timing.Failure it is failed and no longer watched, so one epoch fails
//     at most once,
//   - a beat of a suspect worker makes it alive again.
//
// Restored workers have 2 H + 2 ms for each of them, but never less than
// Timing.Failure, before the same rules apply.
//
// # Time that does not count
//
// The caller calls [Machine.Tick] no later than [Machine.Next] says. A tick that
// comes late by more than 1/16 H proves that this process did not run, so the
// lateness is added to the deadline of every worker. A lateness long enough for a
// healthy worker to have fenced itself (Timing.SelfFence minus one interval) gives
// everyone a fresh window instead. Short delays together extend one silence by at
// most Timing.Failure, so that a machine that is always a little late still finds
// its dead. [Machine.Hold] stops the count for one worker while the caller itself
// keeps that worker waiting, as for a slow disk.
//
// # Mass failure
//
// When more than half of the workers, and at least ten, fail within one interval
// of running time, the cause is rather here or in between than with the workers.
// They still fail, but each transition says Held, and the tick carries an alarm.
package liveness
