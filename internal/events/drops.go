package events

import (
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// drops counts what did not fit, by kind.
type drops struct {
	log, metric, span int64
}

func (d *drops) add(kind core.EventKind) {
	switch kind {
	case core.EventMetric:
		d.metric++
	case core.EventSpan:
		d.span++
	default:
		d.log++
	}
}

func (d drops) total() int64 { return d.log + d.metric + d.span }

// event reports the counts. It is a domain event, so that the report itself is
// never dropped.
func (d drops) event(now time.Time) core.Event {
	return core.Event{
		Time: now, Level: core.LevelWarn, Kind: core.EventDomain, Topic: core.TopicEventsDropped,
		Message: "events were dropped because the event stream is not read fast enough",
		Attrs:   core.Attrs{"dropped": d.total(), "log": d.log, "metric": d.metric, "span": d.span},
	}
}
