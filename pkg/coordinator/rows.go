package coordinator

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// workerRow is the row workers/<ULID>: one JSON object.
type workerRow struct {
	core.WorkerRow
	Protocol uint32 `json:"protocol"`
	// Owed are ended epochs whose work has not been returned to the queue yet.
	Owed []owedRow `json:"owed,omitempty"`
}

// owedRow is an ended epoch whose work has still to be returned.
type owedRow struct {
	Epoch  uint64 `json:"epoch"`
	Loss   bool   `json:"loss"` // the worker was lost, it did not leave
	Reason string `json:"reason"`
}

// over reports whether the row's epoch has ended.
func (r *workerRow) over() bool {
	return r.Liveness == core.LivenessFailed || r.Liveness == core.LivenessDeregistered
}

// beatRow is the row heartbeats/<ULID>: the last beat as it was coalesced.
type beatRow struct {
	Epoch     uint64    `json:"epoch"`
	Seq       uint64    `json:"seq"`
	At        time.Time `json:"at"`
	SlotsBusy int       `json:"slots_busy"`
	SkewMS    int64     `json:"skew_ms"`
}

// bookRow is the row commands/<ULID>: the numbers of a worker's commands. The
// commands themselves are commands/<ULID>/<number>.
type bookRow struct {
	Seq     uint64       `json:"seq"`               // of the last command given
	Acked   uint64       `json:"acked"`             // of the last command acknowledged
	Results []commandAck `json:"results,omitempty"` // the last ones, oldest first
}

// keptResults is how many answers a worker's book keeps for AwaitCommand.
const keptResults = 16

// commandAck is one answer of a worker: it acknowledges Seq and what lies between
// the answer before and it.
type commandAck struct {
	Epoch  uint64    `json:"epoch"`
	Seq    uint64    `json:"seq"`
	Code   core.Code `json:"code"`
	Detail string    `json:"detail,omitempty"`
}

// commandRow is one command that is not acknowledged yet.
type commandRow struct {
	Kind     core.CommandKind `json:"kind"`
	Reason   string           `json:"reason,omitempty"`
	Plugin   string           `json:"plugin,omitempty"`
	Job      core.JobID       `json:"job,omitzero"`
	IssuedAt time.Time        `json:"issued_at"`
}

// tokenRow is the row tokens/<first 16 hex digits of the hash>.
type tokenRow struct {
	Hash      []byte    `json:"hash"` // SHA-256 of the token
	CreatedAt time.Time `json:"created_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"` // zero: never
	Uses      int       `json:"uses,omitempty"`      // enrolments it allows; 0: any number
	Used      int       `json:"used,omitempty"`
	File      bool      `json:"file,omitempty"` // the token of the coordinator's join.token file
}

// keyRow is the row keys/<ULID>.
type keyRow struct {
	Key     []byte    `json:"key"`             // PKIX, DER
	Token   string    `json:"token,omitempty"` // row of the token that admitted it
	BoundAt time.Time `json:"bound_at"`
}

func workerKey(id core.WorkerID) core.Key { return core.NewKey(core.NamespaceWorkers, id.String()) }
func beatKey(id core.WorkerID) core.Key   { return core.NewKey(core.NamespaceHeartbeats, id.String()) }
func bookKey(id core.WorkerID) core.Key   { return core.NewKey(core.NamespaceCommands, id.String()) }
func boundKey(id core.WorkerID) core.Key  { return core.NewKey(core.NamespaceKeys, id.String()) }

func commandKey(id core.WorkerID, seq uint64) core.Key {
	return bookKey(id).Child(fmt.Sprintf("%020d", seq))
}

// eventKey orders events by number: 16 decimal digits.
func eventKey(seq uint64) core.Key {
	return core.NewKey(core.NamespaceEvents, fmt.Sprintf("%016d", seq))
}

// lastSegment reads the number that ends a key.
func lastSegment(k core.Key) (uint64, error) {
	n, err := strconv.ParseUint(k.Path[len(k.Path)-1], 10, 64)
	if err != nil {
		return 0, core.Errorf("coordinator", core.CodeCorrupt, "key %s does not end with a number", k)
	}
	return n, nil
}

// decodeRow reads a JSON row; what cannot be read is [core.CodeCorrupt] and names
// the row. A field that is not known is left out, so that an older binary reads
// the rows of a newer one.
func decodeRow(e core.Entry, into any) error {
	if err := json.Unmarshal(e.Value, into); err != nil {
		return core.Errorf("coordinator", core.CodeCorrupt, "row %s cannot be read: %w", e.Key, err)
	}
	return nil
}

// encodeRow writes a JSON row.
func encodeRow(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	return b, core.Wrap("coordinator: encode row", core.CodeInternal, err)
}

// decodeEvent reads an event row. Whole numbers in attrs stay whole.
func decodeEvent(e core.Entry) (core.StoredEvent, error) {
	seq, err := lastSegment(e.Key)
	if err != nil {
		return core.StoredEvent{}, err
	}
	var ev core.Event
	dec := json.NewDecoder(bytes.NewReader(e.Value))
	dec.UseNumber()
	if err := dec.Decode(&ev); err != nil {
		return core.StoredEvent{}, core.Errorf("coordinator", core.CodeCorrupt, "row %s cannot be read: %w", e.Key, err)
	}
	for k, v := range ev.Attrs {
		ev.Attrs[k] = plain(v)
	}
	return core.StoredEvent{Seq: seq, Event: ev}, nil
}

// plain turns what the JSON decoder made of a value into what [core.Attrs] allows.
func plain(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if n, err := strconv.ParseUint(v.String(), 10, 64); err == nil {
			return n
		}
		f, err := v.Float64()
		if err != nil {
			return v.String()
		}
		return f
	case []any:
		for i := range v {
			v[i] = plain(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = plain(v[k])
		}
	}
	return v
}

// eventTime prints a time as attrs carry it.
func eventTime(t time.Time) string { return t.UTC().Format(time.RFC3339Nano) }
