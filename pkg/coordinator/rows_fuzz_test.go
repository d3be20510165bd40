package coordinator

import (
	"encoding/json"
	"testing"

	"github.com/rollout-substrate/rollout/pkg/core"
)

// FuzzRows reads arbitrary bytes as every kind of row: whatever a store holds gives
// a row or an error that names it, and what was read can be written and read again.
func FuzzRows(f *testing.F) {
	for _, seed := range []string{
		`{}`, `null`, `[]`, `{"worker_id":"01ARZ3NDEKTSV4RRFFQ69G5FAV","state":"ready","liveness":"alive","epoch":3,"owed":[{"epoch":2,"loss":true}]}`,
		`{"worker_id":"lower"}`, `{"seq":18446744073709551615,"acked":1,"results":[{"seq":1,"code":"fenced"}]}`,
		`{"ts":"2026-01-01T00:00:00Z","kind":"domain","attrs":{"epoch":1763900000,"x":1e400,"n":[1,2.5,{"a":-1}]}}`,
		`{"hash":"AAAA","expires_at":"9999-12-31T23:59:59Z","uses":-1}`, `{"kind":"drain","job":"x"}`,
		`{"ts":"0000-00-00T00:00:00Z"}`, "\x00", `{"at":"2026-01-01T00:00:00.123456789+23:59"}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e := core.Entry{Key: eventKey(7), Value: b, Revision: 1}
		for _, into := range []func() any{
			func() any { return new(workerRow) }, func() any { return new(beatRow) }, func() any { return new(bookRow) },
			func() any { return new(commandRow) }, func() any { return new(tokenRow) }, func() any { return new(keyRow) },
		} {
			row := into()
			err := decodeRow(e, row)
			if err != nil {
				if !core.IsCode(err, core.CodeCorrupt) {
					t.Fatalf("%T: %v", row, err)
				}
				continue
			}
			again, err := json.Marshal(row)
			if err != nil {
				continue // such as a year beyond what JSON times can say
			}
			if err := decodeRow(core.Entry{Key: e.Key, Value: again, Revision: 1}, into()); err != nil {
				t.Fatalf("%T was written as %s and cannot be read: %v", row, again, err)
			}
		}
		if ev, err := decodeEvent(e); err == nil && ev.Seq != 7 {
			t.Fatalf("number %d", ev.Seq)
		} else if err != nil && !core.IsCode(err, core.CodeCorrupt) {
			t.Fatal(err)
		}
	})
}

func TestDamagedRowsNameThemselves(t *testing.T) {
	for key, value := range map[string]string{"workers": "{", "heartbeats": "7"} {
		store := newStore()
		k := core.NewKey(core.Namespace(key), workerID(1).String())
		if _, err := core.PutBytes(t.Context(), store, k, []byte(value)); err != nil {
			t.Fatal(err)
		}
		_, err := New(Config{Storage: store})
		wantCode(t, err, core.CodeCorrupt)
	}
	store := newStore()
	if _, err := core.PutBytes(t.Context(), store, core.NewKey(core.NamespaceCommands, "nobody"), []byte("{}")); err != nil {
		t.Fatal(err)
	}
	_, err := New(Config{Storage: store})
	wantCode(t, err, core.CodeCorrupt)
}
