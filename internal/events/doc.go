// Package events prints the event stream of a process: one JSON object a line,
// the NDJSON that coordinator and worker write to their standard output.
//
// # A line
//
// Fields come in the order of [core.Event], empty ones left out, the time in UTC
// as RFC 3339 with nine decimals. A value in attrs that JSON cannot hold (a
// channel, NaN) costs the event its attrs, never the line: attrs then holds only
// encode_error.
//
// # Isolation
//
// [Emitter.Emit] appends to a queue under a mutex and returns; encoding and
// writing happen in one goroutine of the emitter. A slow or blocked sink makes
// the queue grow. Log, metric and span events in it are bounded by
// [Config.Buffer]: what exceeds it is dropped, newest first, counted by kind, and
// reported as an events_dropped line behind what was queued before them. Domain events are never dropped while the sink may still recover, and
// nothing bounds them here: whoever records them in storage (the coordinator)
// keeps only a window of them in the emitter, driven by [Emitter.EmitAck].
//
// # Sink errors
//
// A broken pipe or a closed file is final: everything queued and everything that
// follows is discarded and counted. Any other error (a full disk, a terminal that
// went away for a moment) is retried with a growing pause, and a line that was
// written in part is continued where it stopped, so that no line is ever torn.
package events
