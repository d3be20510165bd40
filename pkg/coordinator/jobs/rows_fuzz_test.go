package jobs

import (
	"bytes"
	"encoding/json"
	"reflect"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// FuzzRows: a row of the book decodes to what encodes back to it, or is corrupt, and
// every result that decodes makes a line of JSON.
func FuzzRows(f *testing.F) {
	e, err := encodeEnvelope(envelope{Index: 7, ID: "line", Input: inputHash([]byte("a")), Payload: []byte("a"), Content: make([]byte, core.ContentIDSize)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(e)
	for _, r := range []resultRow{
		{Outcome: outcomeOK, ID: "a", Result: []byte(`{"score":1}`), Attempts: 1, Worker: make([]byte, 16), Input: make([]byte, 16)},
		{Outcome: outcomeOK, ID: "b", Result: []byte{0xff}},
		{Outcome: outcomeDead, ID: "\xff", Code: uint16(core.CodeTransient), Message: "no \xff"},
	} {
		b, err := encodeResult(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	j, err := encodeJob(jobRow{Spec: core.JobSpec{Plugin: "reward", Method: "score"}, State: core.JobRunning, Items: 5})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(j)
	f.Add([]byte{0xdd, 0xff, 0xff, 0xff, 0xff}) // four billion fields
	f.Fuzz(func(t *testing.T, b []byte) {
		corrupt := func(err error) bool {
			if err != nil && !core.IsCode(err, core.CodeCorrupt) {
				t.Fatal(err)
			}
			return err != nil
		}
		if e, err := decodeEnvelope(b); !corrupt(err) {
			enc, err := encodeEnvelope(e)
			if err != nil {
				t.Fatal(err)
			}
			if back, err := decodeEnvelope(enc); err != nil || !reflect.DeepEqual(e, back) {
				t.Fatalf("%+v came back as %+v, %v", e, back, err)
			}
		}
		if r, err := decodeResult(resultKey(core.JobID{}, 0), b); !corrupt(err) {
			line, err := json.Marshal(r.line(0))
			if err != nil || bytes.ContainsRune(line, '\n') {
				t.Fatalf("line %q, %v", line, err)
			}
		}
		if r, err := decodeJob(core.Entry{Value: b}); !corrupt(err) {
			if _, err := encodeJob(r); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzRowKeys: keys of results name the one index, and foreign ones are corrupt.
func FuzzRowKeys(f *testing.F) {
	f.Add(int64(0), "job/01ARZ3NDEKTSV4RRFFQ69G5FAV")
	f.Add(int64(1<<40), "job/")
	f.Add(int64(3), "12345678")
	f.Fuzz(func(t *testing.T, index int64, text string) {
		if n, err := indexOf(resultKey(core.JobID{1}, index)); err != nil || n != index {
			t.Fatalf("index %d came back as %d, %v", index, n, err)
		}
		if id, ok := jobOfQueue(text); ok && queueOf(id) != text {
			t.Fatalf("queue %q is of job %s", text, id)
		}
		key := core.NewKey(core.NamespaceResults, text)
		if _, err := indexOf(key); !core.IsCode(err, core.CodeCorrupt) {
			t.Fatal(err)
		}
		if id, err := jobOfKey(key); err == nil && string(id[:]) != text || err != nil && !core.IsCode(err, core.CodeCorrupt) {
			t.Fatalf("%q names job %s, %v", text, id, err)
		}
	})
}
