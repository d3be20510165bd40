package events

import (
	"bytes"
	"encoding/json"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// timeLayout is RFC 3339 with all nine decimals, so that lines sort as text.
const timeLayout = "2006-01-02T15:04:05.000000000Z07:00"

// line is [core.Event] with its time as text.
type line struct {
	TS       string          `json:"ts"`
	Level    core.EventLevel `json:"level"`
	Kind     core.EventKind  `json:"kind"`
	Topic    string          `json:"topic,omitempty"`
	RunID    string          `json:"run_id,omitempty"`
	WorkerID string          `json:"worker_id,omitempty"`
	TraceID  string          `json:"trace_id,omitempty"`
	SpanID   string          `json:"span_id,omitempty"`
	PluginID string          `json:"plugin_id,omitempty"`
	Message  string          `json:"message,omitempty"`
	Attrs    core.Attrs      `json:"attrs,omitempty"`
	Replayed bool            `json:"replayed,omitempty"`
}

// AppendLine writes ev to buf as one line with its newline. It never fails: attrs
// that cannot be encoded are replaced by the reason.
func AppendLine(buf *bytes.Buffer, ev core.Event) {
	l := line{
		TS: ev.Time.UTC().Format(timeLayout), Level: ev.Level, Kind: ev.Kind, Topic: ev.Topic,
		RunID: ev.RunID, WorkerID: ev.WorkerID, TraceID: ev.TraceID, SpanID: ev.SpanID,
		PluginID: ev.PluginID, Message: ev.Message, Attrs: ev.Attrs, Replayed: ev.Replayed,
	}
	start := buf.Len()
	enc := json.NewEncoder(buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(l)
	if err == nil {
		return
	}
	buf.Truncate(start)
	l.Attrs = core.Attrs{"encode_error": err.Error()}
	if err := enc.Encode(l); err != nil {
		// Only strings are left, and those always encode.
		panic("events: a line without attributes does not encode: " + err.Error())
	}
}

// fill sets what the caller left empty.
func fill(ev *core.Event) {
	if ev.Time.IsZero() {
		ev.Time = time.Now()
	}
	if ev.Level == "" {
		ev.Level = core.LevelInfo
	}
	if ev.Kind == "" {
		ev.Kind = core.EventLog
	}
}
