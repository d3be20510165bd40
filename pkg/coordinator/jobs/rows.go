package jobs

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strings"
	"time"

	"github.com/rollout-substrate/rollout/pkg/cloudlocal"
	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/vmihailenco/msgpack/v5"
)

// Rows of the book.
//
//	jobs    <job>          jobRow, JSON
//	results <job> <index>  resultRow, MessagePack; index is 8 bytes big-endian
const recordVersion = 1

// jobRow is what is durable of a job. Counts are final once it has ended.
type jobRow struct {
	Version   int            `json:"version"`
	Spec      core.JobSpec   `json:"spec"`
	State     core.JobState  `json:"state"`
	Ending    bool           `json:"ending,omitempty"` // items without a result are being given up
	Reason    string         `json:"reason,omitempty"`
	Code      core.Code      `json:"code,omitempty"` // of the items given up
	Items     int64          `json:"items"`          // once the submission is complete
	Counts    core.JobCounts `json:"counts"`
	CreatedAt time.Time      `json:"created_at"`
	EndedAt   time.Time      `json:"ended_at,omitzero"`
}

// Outcomes as rows hold them.
const (
	outcomeOK    = 1
	outcomeError = 2
	outcomeDead  = 3
)

// resultRow is one item's outcome.
type resultRow struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by msgpack
	Version  uint8
	Outcome  uint8
	ID       string
	Input    []byte // hash of the payload, 16 bytes; empty for a bad line
	Result   []byte
	Content  []byte // id of a result kept in the object store
	Code     uint16
	Message  string
	Attempts int
	Worker   []byte
	Resumed  bool
}

// envelope is an item's payload in the queue.
type envelope struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by msgpack
	Version  uint8
	Index    int64
	ID       string
	Input    []byte
	Payload  []byte
	Content  []byte // id of a payload kept in the object store
}

// inputHash is what finished results are found by: 16 bytes of the content id of
// the payload. The plugin's digest and the method are the job's.
func inputHash(payload []byte) []byte {
	id := core.SumContent(payload)
	return id[:16]
}

func jobKey(id core.JobID) core.Key { return core.NewKey(core.NamespaceJobs, string(id[:])) }

func resultPrefix(id core.JobID) core.Key { return core.NewKey(core.NamespaceResults, string(id[:])) }

func resultKey(id core.JobID, index int64) core.Key {
	return resultPrefix(id).Child(string(binary.BigEndian.AppendUint64(nil, uint64(index))))
}

func indexOf(k core.Key) (int64, error) {
	if len(k.Path) != 2 || len(k.Path[1]) != 8 {
		return 0, core.Errorf("jobs: read row", core.CodeCorrupt, "row %q has no index", k)
	}
	return int64(binary.BigEndian.Uint64([]byte(k.Path[1]))), nil
}

func jobOfKey(k core.Key) (core.JobID, error) {
	var id core.JobID
	if len(k.Path) != 1 || len(k.Path[0]) != len(id) {
		return id, core.Errorf("jobs: read row", core.CodeCorrupt, "row %q does not name a job", k)
	}
	copy(id[:], k.Path[0])
	return id, nil
}

// queueOf names the queue of a job's items.
func queueOf(id core.JobID) string { return "job/" + id.String() }

func jobOfQueue(queue string) (core.JobID, bool) {
	text, ok := strings.CutPrefix(queue, "job/")
	if !ok {
		return core.JobID{}, false
	}
	id, err := core.ParseJobID(text)
	return id, err == nil
}

func encodeJob(r jobRow) ([]byte, error) {
	r.Version = recordVersion
	b, err := json.Marshal(r)
	return b, core.Wrap("jobs: encode row", core.CodeInternal, err)
}

func decodeJob(e core.Entry) (jobRow, error) {
	var r jobRow
	if err := json.Unmarshal(e.Value, &r); err != nil {
		return r, core.Errorf("jobs: decode row", core.CodeCorrupt, "row %q: %w", e.Key, err)
	}
	if r.Version != recordVersion {
		return r, core.Errorf("jobs: decode row", core.CodeCorrupt, "row %q has version %d, this program reads %d", e.Key, r.Version, recordVersion)
	}
	return r, nil
}

func encodeResult(r resultRow) ([]byte, error) {
	r.Version = recordVersion
	b, err := msgpack.Marshal(&r)
	return b, core.Wrap("jobs: encode row", core.CodeInternal, err)
}

func decodeResult(key core.Key, b []byte) (resultRow, error) {
	var r resultRow
	if err := cloudlocal.Unpack(b, &r); err != nil {
		return r, core.Errorf("jobs: decode row", core.CodeCorrupt, "row %q: %w", key, err)
	}
	if r.Version != recordVersion || r.Outcome < outcomeOK || r.Outcome > outcomeDead {
		return r, core.Errorf("jobs: decode row", core.CodeCorrupt, "row %q has version %d and outcome %d, which this program does not know", key, r.Version, r.Outcome)
	}
	return r, nil
}

func encodeEnvelope(e envelope) ([]byte, error) {
	e.Version = recordVersion
	b, err := msgpack.Marshal(&e)
	return b, core.Wrap("jobs: encode item", core.CodeInternal, err)
}

func decodeEnvelope(b []byte) (envelope, error) {
	var e envelope
	if err := cloudlocal.Unpack(b, &e); err != nil {
		return e, core.Errorf("jobs: decode item", core.CodeCorrupt, "%w", err)
	}
	if e.Version != recordVersion || e.Index < 0 || len(e.Content) != 0 && len(e.Content) != core.ContentIDSize {
		return e, core.Errorf("jobs: decode item", core.CodeCorrupt, "an item of version %d, index %d", e.Version, e.Index)
	}
	return e, nil
}

// line makes the result line of a row.
func (r resultRow) line(index int64) core.ItemResult {
	out := core.ItemResult{ID: r.ID, Index: index, Attempts: r.Attempts}
	copy(out.WorkerID[:], r.Worker)
	switch r.Outcome {
	case outcomeOK:
		out.Status = core.ResultOK
		out.Result = jsonOf(r.Result)
		return out
	case outcomeError:
		out.Status = core.ResultError
	default:
		out.Status = core.ResultDead
	}
	out.Error = &core.ItemError{Code: core.Code(r.Code), Message: r.Message}
	return out
}

// jsonOf returns b when it is one JSON value, else an object that carries it in
// base 64.
func jsonOf(b []byte) json.RawMessage {
	if json.Valid(b) {
		return json.RawMessage(b)
	}
	return json.RawMessage(`{"base64":"` + base64.StdEncoding.EncodeToString(b) + `"}`)
}
