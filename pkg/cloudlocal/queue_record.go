package cloudlocal

import (
	"encoding/binary"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
	"github.com/vmihailenco/msgpack/v5"
)

// The rows of one queue, all in namespace "queue" below the queue's name.
//
//	<name> "h"                 highest number reserved so far, 8 bytes big-endian
//	<name> "i" <place>         itemRecord, written once
//	<name> "s" <place>         stateRecord; absent: ready, never tried
//	<name> "d" <number>        deadRecord, in place of the two above
//	<name> "k" <key>           idemRecord of an idempotency key
//	"" "opens"                 how often the store was opened as a queue, 8 bytes
//
// A place is 12 bytes: the priority, inverted so that higher ones sort first,
// then the number. Rows therefore lie in the order of delivery, a window of them
// can be loaded by one scan, and items enqueued together share pages.
const (
	rowHigh  = "h"
	rowItem  = "i"
	rowState = "s"
	rowDead  = "d"
	rowIdem  = "k"
)

// recordVersion is the first element of every record.
const recordVersion = 1

// maxHistory is how many failures an item remembers, the newest ones.
const maxHistory = 16

// maxReason is how many bytes of a reason are kept.
const maxReason = 4 << 10

type itemRecord struct {
	_msgpack    struct{} `msgpack:",as_array"` //nolint:unused // read by msgpack
	Version     uint8
	Payload     []byte
	Content     []byte // id of a payload kept in the object store
	Size        int64  // bytes of the payload, wherever it lies
	Key         string
	EnqueuedMS  int64
	MaxAttempts int
	MaxLosses   int
}

type failureRecord struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by msgpack
	AtMS     int64
	Code     uint16
	Reason   string
	Owner    []byte
	Epoch    uint64
	Loss     bool
}

// stateRecord is what has happened to an item. Token 0 means not leased.
type stateRecord struct {
	_msgpack    struct{} `msgpack:",as_array"` //nolint:unused // read by msgpack
	Version     uint8
	Attempts    int
	Losses      int
	NotBeforeMS int64
	Token       uint64
	Owner       []byte
	Epoch       uint64
	DeadlineMS  int64
	History     []failureRecord
}

type deadRecord struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by msgpack
	Version  uint8
	Priority int32
	Item     itemRecord
	State    stateRecord
}

type idemRecord struct {
	_msgpack struct{} `msgpack:",as_array"` //nolint:unused // read by msgpack
	Version  uint8
	ID       uint64
	DoneMS   int64 // 0: the item is not finished
}

// place is where an item stands in the order of delivery.
type place struct {
	prio int32
	id   core.ItemID
}

// before reports whether p is delivered before o.
func (p place) before(o place) bool {
	if p.prio != o.prio {
		return p.prio > o.prio
	}
	return p.id < o.id
}

func (p place) segment() string {
	var b [12]byte
	binary.BigEndian.PutUint32(b[:4], ^(uint32(p.prio) ^ 1<<31))
	binary.BigEndian.PutUint64(b[4:], uint64(p.id))
	return string(b[:])
}

func parsePlace(s string) (place, error) {
	if len(s) != 12 {
		return place{}, core.Errorf("queue: read row", core.CodeCorrupt, "a place has %d bytes, not 12", len(s))
	}
	prio := int32(^binary.BigEndian.Uint32([]byte(s[:4])) ^ 1<<31)
	return place{prio: prio, id: core.ItemID(binary.BigEndian.Uint64([]byte(s[4:])))}, nil
}

func numberSegment(n core.ItemID) string {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	return string(b[:])
}

func parseNumber(s string) (uint64, error) {
	if len(s) != 8 {
		return 0, core.Errorf("queue: read row", core.CodeCorrupt, "a number has %d bytes, not 8", len(s))
	}
	return binary.BigEndian.Uint64([]byte(s)), nil
}

func rowKey(queue, row string, segment ...string) core.Key {
	return core.NewKey(core.NamespaceQueue, append([]string{queue, row}, segment...)...)
}

func encodeRecord(v any) ([]byte, error) {
	b, err := msgpack.Marshal(v)
	return b, core.Wrap("queue: encode row", core.CodeInternal, err)
}

// decodeRecord reads a record whose storage checksum has been verified already,
// so a failure means a row written by something else.
func decodeRecord(key core.Key, b []byte, v any, version *uint8) error {
	if err := Unpack(b, v); err != nil {
		return core.Errorf("queue: decode row", core.CodeCorrupt, "row %q: %w", key, err)
	}
	if *version != recordVersion {
		return core.Errorf("queue: decode row", core.CodeCorrupt, "row %q has record version %d, this program reads %d", key, *version, recordVersion)
	}
	return nil
}

func decodeItem(key core.Key, b []byte) (itemRecord, error) {
	var r itemRecord
	err := decodeRecord(key, b, &r, &r.Version)
	return r, err
}

func decodeState(key core.Key, b []byte) (stateRecord, error) {
	var r stateRecord
	err := decodeRecord(key, b, &r, &r.Version)
	if err == nil && len(r.Owner) != 0 && len(r.Owner) != len(core.WorkerID{}) {
		err = core.Errorf("queue: decode row", core.CodeCorrupt, "row %q names an owner of %d bytes", key, len(r.Owner))
	}
	return r, err
}

func decodeDead(key core.Key, b []byte) (deadRecord, error) {
	var r deadRecord
	err := decodeRecord(key, b, &r, &r.Version)
	return r, err
}

func decodeIdem(key core.Key, b []byte) (idemRecord, error) {
	var r idemRecord
	err := decodeRecord(key, b, &r, &r.Version)
	return r, err
}

// addFailure appends to the history and keeps the newest entries.
func (s *stateRecord) addFailure(f core.Failure) {
	if len(f.Reason) > maxReason {
		f.Reason = f.Reason[:maxReason]
	}
	s.History = append(s.History, failureRecord{
		AtMS: f.At.UnixMilli(), Code: uint16(f.Code), Reason: f.Reason, Owner: f.Owner[:], Epoch: f.Epoch, Loss: f.Loss,
	})
	if n := len(s.History) - maxHistory; n > 0 {
		s.History = s.History[n:]
	}
}

func (s stateRecord) failures() []core.Failure {
	out := make([]core.Failure, len(s.History))
	for i, f := range s.History {
		out[i] = core.Failure{At: time.UnixMilli(f.AtMS), Code: core.Code(f.Code), Reason: f.Reason, Epoch: f.Epoch, Loss: f.Loss}
		copy(out[i].Owner[:], f.Owner)
	}
	return out
}

func timeOfMS(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

func msOfTime(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
