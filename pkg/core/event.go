package core

import (
	"context"
	"time"
)

// EventKind groups events by what they are for.
type EventKind string

// The kinds of events.
const (
	EventLog    EventKind = "log"    // a log line of a plugin
	EventMetric EventKind = "metric" // a measurement; may be dropped under pressure
	EventSpan   EventKind = "span"   // a timed operation
	EventDomain EventKind = "domain" // a fact that others act on; never dropped
)

// EventLevel is the severity of an event.
type EventLevel string

// The levels, from the least to the most severe.
const (
	LevelDebug EventLevel = "debug"
	LevelInfo  EventLevel = "info"
	LevelWarn  EventLevel = "warn"
	LevelError EventLevel = "error"
)

// Rank orders levels: debug 0, info 1, warn 2, error 3. An unknown level ranks
// as info.
func (l EventLevel) Rank() int {
	switch l {
	case LevelDebug:
		return 0
	case LevelWarn:
		return 2
	case LevelError:
		return 3
	}
	return 1
}

// The topics that coordinator and worker emit.
const (
	TopicCoordinatorStarted = "coordinator_started"
	TopicCoordinatorStopped = "coordinator_stopped"
	TopicWorkerRegistered   = "worker_registered"
	TopicWorkerRecovered    = "worker_recovered"
	TopicWorkerDeregistered = "worker_deregistered"
	TopicWorkerHeartbeat    = "worker_heartbeat"
	TopicWorkerState        = "worker_state"
	TopicWorkerSuspect      = "worker_suspect"
	TopicWorkerFailed       = "worker_failed"
	TopicWorkerFenced       = "worker_fenced"
	TopicMassFailure        = "mass_failure"
	TopicClockSkew          = "clock_skew"
	TopicJobSubmitted       = "job_submitted"
	TopicJobFinished        = "job_finished"
	TopicWorkRequeued       = "work_requeued"
	TopicWorkDead           = "work_dead"
	TopicPluginLoaded       = "plugin_loaded"
	TopicPluginReloaded     = "plugin_reloaded"
	TopicPluginCrashed      = "plugin_crashed"
	TopicPluginRestarted    = "plugin_restarted"
	TopicPluginUnloaded     = "plugin_unloaded"
	TopicPluginCallError    = "plugin_call_error"
	TopicEventsDropped      = "events_dropped"
)

// Attrs are an event's own fields. Values are strings, booleans, integers,
// floats, nil, and slices and maps of these. A time is given as RFC 3339 text
// with nanoseconds, a duration in the unit that its key names (silent_ms).
type Attrs map[string]any

// Event is one line of the event stream. Empty fields are left out of the line.
type Event struct {
	Time     time.Time  `json:"ts"`                  // wall clock at the transition
	Level    EventLevel `json:"level"`               // severity
	Kind     EventKind  `json:"kind"`                // what the event is for
	Topic    string     `json:"topic,omitempty"`     // which event it is
	RunID    string     `json:"run_id,omitempty"`    // the run, as text
	WorkerID string     `json:"worker_id,omitempty"` // the worker concerned, as text
	TraceID  string     `json:"trace_id,omitempty"`  // 32 hex digits, W3C
	SpanID   string     `json:"span_id,omitempty"`   // 16 hex digits, W3C
	PluginID string     `json:"plugin_id,omitempty"` // "<name>-<version>"
	Message  string     `json:"message,omitempty"`   // for people
	Attrs    Attrs      `json:"attrs,omitempty"`     // the topic's fields
	Replayed bool       `json:"replayed,omitempty"`  // printed again after a crash
}

// EventEmitter takes events out of the hot path.
//
// Emit never blocks on the sink and does no input or output of its own before it
// returns: a slow or broken sink costs the caller nothing. Events of one
// goroutine keep their order. A domain event is not lost while the process
// lives, whatever the sink does; an emitter that must drop log and metric events
// counts them and reports the count as [TopicEventsDropped]. An event below the
// emitter's level is discarded. Emit owns ev.Attrs afterwards.
type EventEmitter interface {
	// Emit queues ev. A zero Time is set to now. It cannot fail: what the sink
	// does wrong is reported by Close and by events_dropped.
	Emit(ev Event)
	// Close writes out what is queued until ctx ends and returns what the sink
	// did wrong, if anything. Events that could not be written are counted in
	// the error.
	Close(ctx context.Context) error
}
