package cloudlocal

import (
	"reflect"
	"testing"
	"time"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// FuzzQueueRecords: every row of a queue decodes to what encodes back to it, or is
// corrupt.
func FuzzQueueRecords(f *testing.F) {
	item := itemRecord{Version: recordVersion, Payload: []byte("p"), Size: 1, Key: "k", EnqueuedMS: 7, MaxAttempts: 3, MaxLosses: 4}
	state := stateRecord{Version: recordVersion, Attempts: 2, Losses: 1, NotBeforeMS: 9, Token: 1 << 41, Owner: make([]byte, 16), Epoch: 3, DeadlineMS: 11}
	state.addFailure(core.Failure{At: time.UnixMilli(5), Code: core.CodeTransient, Reason: "again", Owner: core.WorkerID{1}, Epoch: 2})
	state.addFailure(core.Failure{At: time.UnixMilli(6), Code: core.CodeLeaseLost, Reason: "killed", Loss: true})
	for _, r := range []any{&item, &state, &stateRecord{Version: recordVersion}, &deadRecord{Version: recordVersion, Priority: -5, Item: item, State: state}, &idemRecord{Version: recordVersion, ID: 9, DoneMS: 1}} {
		b, err := encodeRecord(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)/2])
	}
	f.Add([]byte{})
	f.Add([]byte{0x98, 0x01, 0xc6, 0xff, 0xff, 0xff, 0xff}) // a payload of four gigabytes that is not there
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})             // four billion fields
	key := rowKey("q", rowItem, "x")
	f.Fuzz(func(t *testing.T, b []byte) {
		again := func(r, back any, decode func([]byte) (any, error)) {
			enc, err := encodeRecord(r)
			if err != nil {
				t.Fatal(err)
			}
			if back, err = decode(enc); err != nil || !reflect.DeepEqual(reflect.ValueOf(r).Elem().Interface(), back) {
				t.Fatalf("%+v came back as %+v, %v", r, back, err)
			}
		}
		corrupt := func(err error) bool {
			if err != nil && !core.IsCode(err, core.CodeCorrupt) {
				t.Fatal(err)
			}
			return err != nil
		}
		if r, err := decodeItem(key, b); !corrupt(err) {
			again(&r, nil, func(b []byte) (any, error) { r, err := decodeItem(key, b); return r, err })
		}
		if r, err := decodeState(key, b); !corrupt(err) {
			again(&r, nil, func(b []byte) (any, error) { r, err := decodeState(key, b); return r, err })
			if len(r.failures()) != len(r.History) {
				t.Fatalf("%d failures of %d", len(r.failures()), len(r.History))
			}
		}
		if r, err := decodeDead(key, b); !corrupt(err) {
			again(&r, nil, func(b []byte) (any, error) { r, err := decodeDead(key, b); return r, err })
		}
		if r, err := decodeIdem(key, b); !corrupt(err) {
			again(&r, nil, func(b []byte) (any, error) { r, err := decodeIdem(key, b); return r, err })
		}
	})
}

// FuzzQueuePlace: places lie in the order of delivery, and what is read as one has
// that one spelling.
func FuzzQueuePlace(f *testing.F) {
	f.Add(int32(0), uint64(1), int32(0), uint64(2), "")
	f.Add(int32(-1), uint64(1), int32(1), uint64(1<<63), place{prio: 7, id: 9}.segment())
	f.Add(int32(-1<<31), uint64(0), int32(1<<31-1), uint64(1<<64-1), "thirteen byte")
	f.Fuzz(func(t *testing.T, p1 int32, n1 uint64, p2 int32, n2 uint64, text string) {
		a, b := place{p1, core.ItemID(n1)}, place{p2, core.ItemID(n2)}
		if a.before(b) != (a.segment() < b.segment()) {
			t.Fatalf("%+v before %+v: %v", a, b, a.before(b))
		}
		if back, err := parsePlace(a.segment()); err != nil || back != a {
			t.Fatalf("%+v came back as %+v, %v", a, back, err)
		}
		if n, err := parseNumber(numberSegment(a.id)); err != nil || n != n1 {
			t.Fatalf("%d came back as %d, %v", n1, n, err)
		}
		if p, err := parsePlace(text); err == nil && p.segment() != text || err != nil && !core.IsCode(err, core.CodeCorrupt) {
			t.Fatalf("%q is %+v, %v", text, p, err)
		}
		if _, err := parseNumber(text); err != nil && !core.IsCode(err, core.CodeCorrupt) {
			t.Fatal(err)
		}
	})
}
